// Draws scenes that Python recorded: which cells are open, and by which rule. No rule of attention is in here.
const SVG = "http://www.w3.org/2000/svg";
const CELL = 24;

const node = (name, attributes = {}, ...children) => {
  const svg = ["svg", "g", "rect", "path", "text", "circle"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

// one mark for each rule, which reads without color: dot, bar, cross, slash, shade
const MARKS = {
  o: (x, y) => [node("rect", { x, y, width: CELL, height: CELL, class: "o" }),
    node("circle", { cx: x + CELL / 2, cy: y + CELL / 2, r: 3.6, class: "mark" })],
  e: (x, y) => [node("rect", { x, y, width: CELL, height: CELL, class: "e" }),
    node("rect", { x: x + 5, y: y + CELL / 2 - 1.8, width: CELL - 10, height: 3.6, class: "mark" })],
  a: (x, y) => [node("path", { d: `M${x + 7} ${y + 7}l10 10m0 -10l-10 10`, class: "bad" })],
  d: (x, y) => [node("path", { d: `M${x + 7} ${y + 17}l10 -10`, class: "far" })],
  k: (x, y) => [node("rect", { x, y, width: CELL, height: CELL, class: "idle" })],
};
MARKS.f = MARKS.o; MARKS.c = MARKS.e; MARKS.v = MARKS.a;

async function start(root, packed) {
  const data = await unpacked(packed);
  root.querySelectorAll(".dllm-still").forEach(still => still.remove());
  const state = { ...data.first, q: 0, k: 0, frame: 0 };
  const bar = node("div", { class: "bar" }), steps = node("div", { class: "bar" });
  const figure = node("div", { tabindex: "0", role: "application", "aria-label": "attention picture; arrow keys move over its cells" });
  const why = node("div", { class: "why", role: "status" }), sees = node("div", { class: "sees" });
  const legend = node("ul", { class: "legend" });
  const right = node("div", {}, why, sees);
  const keys = node("p", { class: "keys" });
  keys.textContent = "Point at a cell, or focus the picture: arrow keys move, Home and End go to the row's ends, comma and full stop step through a decoder's forward passes.";
  root.append(bar, steps, node("div", { class: "stage" }, figure, right), legend, keys);

  const selects = {};
  for (const [name, label] of [["pattern", "pattern"], ["length", "length (tokens)"], ["block", "block size (tokens)"], ["documents", "documents"]]) {
    const select = node("select", {});
    select.addEventListener("change", () => { state[name] = select.value; state.frame = 0; settle(); });
    selects[name] = select;
    bar.append(node("label", {}, `${label} `, select));
  }
  const button = (text, action) => {
    const element = node("button", { type: "button" }, text);
    element.addEventListener("click", action);
    return element;
  };
  const rowBack = button("◀ token", () => moveTo(state.q - 1, state.k)), rowOn = button("token ▶", () => moveTo(state.q + 1, state.k));
  const back = button("◀ forward", () => step(-1)), on = button("forward ▶", () => step(1)), clock = node("span");
  steps.append(rowBack, rowOn, back, on, clock);

  const scene = () => data.scenes[[state.pattern, state.length, state.block, state.documents].join("|")];
  const rule = code => data.rules[code];
  const named = e => {
    const element = scene().elements[e];
    const masked = element.masked ? ", masked" : "";
    return `“${element.text}” (token ${element.token + 1}${element.part ? ", " + element.part : ""}${masked})`;
  };

  function fill(name, values) {
    const select = selects[name], chosen = values.includes(String(state[name])) ? String(state[name]) : values[0];
    select.replaceChildren();
    const groups = name === "pattern" ? data.groups : { "": values };
    for (const [title, members] of Object.entries(groups)) {
      const parent = title ? select.appendChild(node("optgroup", { label: title })) : select;
      for (const value of members) parent.append(node("option", { value }, value));
    }
    select.value = state[name] = chosen;
    select.parentElement.style.display = values.length > 1 ? "" : "none";
  }

  // only what was recorded can be chosen: each list depends on those before it
  function settle() {
    const order = ["pattern", "length", "block", "documents"], all = Object.keys(data.scenes).map(key => key.split("|"));
    let left = all;
    order.forEach((name, i) => {
      fill(name, [...new Set((i ? left : all).map(key => key[i]))]);
      left = left.filter(key => key[i] === state[name]);
    });
    const size = scene().elements.length;
    state.frame = Math.min(state.frame, scene().frames.length - 1);
    moveTo(Math.min(state.q, size - 1), Math.min(state.k, size - 1), true);
  }

  function step(by) {
    const last = scene().frames.length - 1, frame = Math.max(0, Math.min(last, state.frame + by));
    if (frame === state.frame) return;
    state.frame = frame;
    const fed = scene().frames[frame].fed;
    if (fed && !fed.includes(state.q)) state.q = fed[0];
    moveTo(state.q, state.k, true);
  }

  let cursor, bandQ, bandK, edge;
  function draw() {
    const { elements, borders, frames } = scene(), frame = frames[state.frame], n = elements.length;
    const wide = Math.max(...elements.map(e => e.text.length)) > 2;
    edge = CELL * 2.4;
    const size = edge + n * CELL + 4;
    figure.style.maxWidth = `${Math.round(Math.max(340, Math.min(1.5 * size, 760)))}px`;
    const svg = node("svg", { viewBox: `0 0 ${size} ${size}`, "aria-hidden": "true" });
    svg.append(node("rect", { x: edge, y: edge, width: n * CELL, height: n * CELL, class: "field" }));
    for (let q = 0; q < n; q++) for (let k = 0; k < n; k++) {
      const mark = MARKS[frame.cells[q][k]];
      if (mark) svg.append(...mark(edge + k * CELL, edge + q * CELL));
    }
    const lines = Array.from({ length: n + 1 }, (_, i) => `M${edge} ${edge + i * CELL}h${n * CELL}M${edge + i * CELL} ${edge}v${n * CELL}`);
    svg.append(node("path", { d: lines.join(""), class: "grid" }));
    for (const [at, kind] of borders) {
      svg.append(node("path", { d: `M${edge} ${edge + at * CELL}h${n * CELL}M${edge + at * CELL} ${edge}v${n * CELL}`, class: `border${kind}` }));
    }
    elements.forEach((element, e) => {
      const masked = frame.known ? !frame.known[e] : element.masked, middle = edge + e * CELL + CELL / 2;
      const text = frame.known && !frame.known[e] ? data.mask : element.text, font = wide ? 9 : 15;
      const kind = masked ? "masked" : "";
      svg.append(node("text", { x: edge - 6, y: middle + 5, "text-anchor": "end", "font-size": font, class: kind }, text));
      svg.append(node("text", { x: middle, y: edge - 7, "text-anchor": "middle", "font-size": font, class: kind }, text));
    });
    for (let e = 0, from = 0; e <= n; e++) {
      if (e < n && elements[e].part === elements[from].part) continue;
      const middle = edge + (from + e) / 2 * CELL, part = elements[from].part;
      svg.append(node("text", { x: middle, y: 14, "text-anchor": "middle", "font-size": 14, class: "part" }, part));
      svg.append(node("text", { x: 0, y: 0, "text-anchor": "middle", "font-size": 14, class: "part", transform: `translate(13 ${middle}) rotate(-90)` }, part));
      from = e;
    }
    svg.append(node("text", { x: edge - 6, y: edge - 24, "text-anchor": "end", "font-size": 10, class: "axis" }, "seen →"),
      node("text", { x: edge - 6, y: edge - 10, "text-anchor": "end", "font-size": 10, class: "axis" }, "looks ↓"));
    bandQ = node("rect", { x: 20, y: 0, width: size - 20, height: CELL, class: "band" });
    bandK = node("rect", { x: 0, y: 20, width: CELL, height: size - 20, class: "band" });
    cursor = node("rect", { width: CELL, height: CELL, class: "cursor" });
    svg.append(bandQ, bandK, cursor);
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect(), scale = size / box.width;
      const index = value => Math.floor((value * scale - edge) / CELL);
      const q = index(event.clientY - box.top), k = index(event.clientX - box.left);
      if (q >= 0 && k >= 0 && q < n && k < n && (q !== state.q || k !== state.k)) moveTo(q, k);
    });
    figure.replaceChildren(svg);
    const used = [...new Set(frame.cells.join(""))].filter(code => MARKS[code]);
    legend.replaceChildren(...used.map(code => node("li", {},
      node("svg", { viewBox: `0 0 ${CELL} ${CELL}`, "aria-hidden": "true" }, ...MARKS[code](0, 0)), rule(code)[1])));
    const decoding = frames.length > 1;
    back.style.display = on.style.display = decoding ? "" : "none";
    back.disabled = state.frame === 0; on.disabled = state.frame === frames.length - 1;
    const done = decoding ? frame.says.filter(Boolean).join(", ") : "";
    const fed = frame.fed;
    clock.textContent = decoding ? `forward ${state.frame + 1} of ${frames.length}: computes ${fed.length} of ${n} positions; writes ${done}` : "";
  }

  function moveTo(q, k, anew = false) {
    const n = scene().elements.length;
    state.q = Math.max(0, Math.min(n - 1, q)); state.k = Math.max(0, Math.min(n - 1, k));
    if (anew) draw();
    bandQ.setAttribute("y", edge + state.q * CELL); bandK.setAttribute("x", edge + state.k * CELL);
    cursor.setAttribute("x", edge + state.k * CELL); cursor.setAttribute("y", edge + state.q * CELL);
    rowBack.disabled = state.q === 0; rowOn.disabled = state.q === n - 1;
    explain();
  }

  function explain() {
    const { elements, frames } = scene(), frame = frames[state.frame], row = frame.cells[state.q];
    const [open, name, words] = rule(row[state.k]);
    const sentence = words.replaceAll("{q}", named(state.q)).replaceAll("{k}", named(state.k));
    why.replaceChildren(
      node("div", {}, node("b", { class: open ? "open" : "shut" }, `${open ? "✓ open" : "✗ closed"}: ${name}`)),
      node("div", {}, `${named(state.q)} → ${named(state.k)}`), node("div", {}, sentence + "."));
    const seen = [...row].map(code => rule(code)[0]), parts = new Map();
    elements.forEach((element, e) => {
      if (!parts.has(element.part)) parts.set(element.part, node("div", { class: "chips" }, node("span", {}, element.part || "row")));
      const clean = "ec".includes(row[e]), kind = `${seen[e] ? `seen${clean ? " clean" : ""}` : ""}${e === state.q ? " self" : ""}`;
      parts.get(element.part).append(node("span", { class: `chip ${kind}` }, frame.known && !frame.known[e] ? data.mask : element.text));
    });
    const says = elements[state.q].says;
    const count = seen.filter(Boolean).length, active = !"kr".includes(row[0]);
    const predicted = says.length ? ` At its position ${says.map(text => `“${text}”`).join(", ")} is predicted.` : "";
    const tally = Object.entries(data.rules).filter(([code, r]) => r[0] && row.includes(code))
      .map(([code, r]) => `${[...row].filter(c => c === code).length} ${r[1]}`).join(", ");
    const head = node("div", {}, active ? `${named(state.q)} may see ${count} of ${elements.length}: ${tally}.${predicted}` : sentence + ".");
    sees.replaceChildren(head, ...parts.values());
  }

  figure.addEventListener("keydown", event => {
    const n = scene().elements.length;
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -n], End: [0, n] };
    const move = moves[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (move) moveTo(state.q + move[0], state.k + move[1]);
    else if (event.key === "," || event.key === ".") step(event.key === "." ? 1 : -1);
    else return;
    event.preventDefault(); event.stopPropagation();
  });
  settle();
  moveTo(data.first.q, data.first.k);
}
