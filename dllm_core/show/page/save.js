// Saving what is shown, and opening saved decodings.

const GIF_STEP = 600; // milliseconds of a step in the GIF

function download(content, name, type) {
  const url = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

// The stand-alone player with these decodings: the page that Python's save_html writes, filled in by the same template.
function playerPage(data) {
  const json = JSON.stringify(data).replace(/[<>&\u2028\u2029]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const parts = { css: byId("player-css").textContent, script: byId("player-js").textContent, static: "", data: json, id: "dllm-saved", title: say("player") };
  const fill = (text) => text.replace(/\$(\w+)/g, (_, name) => (name === "player" ? fill(DATA.templates.piece) : parts[name]));
  return fill(DATA.templates.page);
}

// The sides as the player draws them at this moment: cells with their colours, on a canvas.
function paint({ player }, scale) {
  const style = getComputedStyle(player.root);
  const boxes = player.sides.map(({ box }) => box.getBoundingClientRect());
  const left = Math.min(...boxes.map((box) => box.left)), top = Math.min(...boxes.map((box) => box.top)) - 24;
  const width = Math.max(...boxes.map((box) => box.right)) - left, height = Math.max(...boxes.map((box) => box.bottom)) - top;
  const canvas = make("canvas", { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.scale(scale, scale);
  pen.fillStyle = style.backgroundColor;
  pen.fillRect(0, 0, width, height);
  pen.textBaseline = "middle";
  player.sides.forEach(({ record, k, cells }, index) => {
    pen.font = `600 14px ${style.fontFamily}`;
    pen.fillStyle = style.color;
    pen.textAlign = "left";
    pen.fillText(`${record.label}   ${record.forwards[k]} / ${record.forwards.at(-1)}`, boxes[index].left - left + 6, boxes[index].top - top - 12);
    for (const cell of cells) paintCell(pen, cell, cell.parentNode.getBoundingClientRect(), left, top);
  });
  return canvas;
}

function paintCell(pen, cell, box, left, top) {
  const { x, y, width, height } = cell.getBoundingClientRect();
  if (y < box.top - 4 || y + height > box.bottom + 4) return; // scrolled out of sight
  const look = getComputedStyle(cell);
  const border = parseFloat(look.borderTopWidth);
  pen.fillStyle = look.backgroundColor;
  pen.fillRect(x - left, y - top, width, height);
  pen.lineWidth = border;
  pen.strokeStyle = look.borderTopColor;
  pen.setLineDash(look.borderTopStyle === "dashed" ? [4, 3] : look.borderTopStyle === "dotted" ? [2, 2] : []);
  if (border) pen.strokeRect(x - left + border / 2, y - top + border / 2, width - border, height - border);
  pen.font = look.font;
  pen.fillStyle = look.color;
  pen.textAlign = "center";
  pen.fillText(cell.textContent, x - left + width / 2, y - top + height / 2 + 1, width - 4);
}

function saveGif(studio) {
  const { player } = studio;
  const { index } = player;
  const frames = player.ticks.map((_, tick) => {
    player.go(tick);
    const canvas = paint(studio, 1);
    return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  });
  player.go(index);
  download(gif(frames, GIF_STEP), "decoding.gif", "image/gif");
}

// A Trace in JSON: what Python's Trace.save writes. Throws what is wrong with it.
function readTrace(text) {
  const trace = JSON.parse(text);
  for (const name of ["style", "initial", "prompt", "steps", "settings", "vocabulary"]) if (!(name in Object(trace))) throw new Error(`${name}: missing`);
  for (const { position } of trace.steps.flatMap(({ commits }) => commits)) {
    if (!(position in trace.initial)) throw new Error("a commit lies outside the sequence");
  }
  return trace;
}

async function openFiles(studio, files) {
  const sides = [];
  for (const file of [...files].slice(0, MOST_SIDES)) {
    try {
      const trace = readTrace(await file.text());
      recordOf(trace, "", false); // throws where a step lacks a field
      sides.push({ id: 0, request: null, asked: true, running: false, reused: 0, entropies: [], trace });
    } catch (error) {
      byId("note").textContent = say("no_file", { name: file.name, error: error.message });
      return;
    }
  }
  if (sides.length) studio.run(sides);
}

function listenToSaving(studio) {
  const on = (id, act) => byId(id).addEventListener("click", () => studio.player && act());
  const records = () => studio.player.sides.map(({ record, of: side }) => recordOf(side.trace, record.label, side.running));
  on("save-html", () => download(playerPage({ clock: studio.player.unit, traces: records() }), "decoding.html", "text/html"));
  on("save-png", () => paint(studio, 2).toBlob((blob) => download(blob, "decoding.png", "image/png")));
  on("save-gif", () => saveGif(studio));
  on("save-json", () => studio.player.sides.forEach(({ of: side }, i) => download(JSON.stringify(side.trace), `decoding-${i + 1}.json`, "application/json")));
  on("open", () => byId("files").click());
  on("link", () => copyText(location.href));
  on("copy", () => copyText(studio.player.sides.map(({ of: side, k }) => runningText(side.trace, k).map(([text, masked]) => (masked ? "" : text)).join("")).join("\n\n")));
  byId("files").addEventListener("change", ({ target }) => openFiles(studio, target.files));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    openFiles(studio, event.dataTransfer.files);
  });
}

// By the clipboard, and where a page from disk may not use it by a selection.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  byId("note").textContent = say("copied");
}
