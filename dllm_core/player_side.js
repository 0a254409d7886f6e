// What is drawn of one trace: its token cells (Side), and its line in the curves (Curve).

const DASHES = ["", "7 4", "2 3"];

// One trace on the page: heading, cells, state.
class Side {
  constructor(player, record, index) {
    this.player = player;
    this.record = record;
    this.k = -1;
    this.keys = [];
    this.state = make("div", { class: "dllm-state" });
    this.cells = record.initial.map((token, position) => this.cell(token, position));
    this.box = make("div", { class: "dllm-cells", role: "listbox", "aria-label": `tokens of ${record.label}` }, this.cells);
    this.focus(record.initial.indexOf(record.mask));
    const settings = Object.entries(record.settings).map(([key, value]) => `${key} ${value}`).join(", ");
    this.node = make("section", { class: "dllm-side", "aria-label": record.label }, [
      make("div", { class: "dllm-name" }, [dash(index), record.label]),
      this.state,
      this.box,
      ...(settings ? [make("details", { class: "dllm-keys" }, [make("summary", { text: "settings" }), settings])] : []),
    ]);
  }

  cell(token, position) {
    const { record, player } = this;
    const texts = record.commitsAt[position].map((event) => record.text(event.token));
    if (token !== record.mask) texts.push(record.text(token));
    const wide = Math.min(16, Math.max(2, ...texts.map(columns)));
    return make("span", {
      class: "dllm-cell", role: "option", tabindex: "-1", style: { "--w": `${plain(wide * 0.56 + 0.6)}em` },
      on: {
        mouseenter: () => player.explain(this, position),
        mouseleave: () => player.explain(),
        focus: () => player.explain(this, position),
        click: () => player.pick(this, position),
      },
    });
  }

  focus(position) { // the one cell that Tab reaches
    if (this.stop !== undefined) this.cells[this.stop].tabIndex = -1;
    this.stop = Math.min(Math.max(position, 0), this.cells.length - 1);
    if (this.cells.length) this.cells[this.stop].tabIndex = 0;
  }

  show(k, force) {
    if (k === this.k && !force) return;
    this.k = k;
    const { record, player } = this;
    const end = record.end(k);
    const last = Math.max(record.steps.length, 1);
    let newest = null;
    this.cells.forEach((cell, position) => {
      const what = record.at(position, k);
      const look = this.look(what, position > end);
      if (what.state === "now" && newest === null) newest = cell;
      const key = `${look.kind}|${look.text}|${look.number}|${look.shade}`;
      if (this.keys[position] === key) return;
      this.keys[position] = key;
      cell.className = `dllm-cell ${look.kind}`;
      cell.textContent = look.text;
      cell.dataset.step = look.number; // shown small beside the text
      cell.style.setProperty("--shade", `${look.shade}%`);
      cell.style.background = look.number && what.state === "before" && position <= end
        ? `color-mix(in srgb, color-mix(in oklab, var(--late) ${plain((100 * what.commit.step) / last, 0)}%, var(--done)) 45%, var(--paper))`
        : "";
      cell.setAttribute("aria-label", `position ${position}: ${look.words}`);
    });
    if (newest && this.box.scrollHeight > this.box.clientHeight) this.reveal(newest);
    this.state.textContent = this.summary(k);
    player.picked?.side === this && player.explain();
  }

  look(what, filling) {
    const { record, player } = this;
    const extra = (what.inBlock ? " inblock" : "") + (filling && what.state !== "prompt" ? " filling" : "");
    if (what.state === "masked") {
      const guess = player.guesses !== "hidden" && what.draft;
      const remasked = guess && player.guesses === "struck" && what.inBlock ? " remasked" : "";
      const words = guess ? `masked, guess ${record.text(guess.token)} ${plain(guess.confidence)}` : "masked";
      return { kind: `masked${extra}${remasked}`, text: guess ? record.text(guess.token) : "·", shade: 0, number: "", words };
    }
    const text = record.text(what.token);
    if (what.state === "prompt") return { kind: `prompt${extra}`, text, shade: 0, number: "", words: `${text}, given` };
    const { step, confidence, reason } = what.commit;
    return {
      kind: `${what.state}${what.edited ? " edited" : ""}${extra}`,
      text,
      shade: player.colour === "confidence" ? Math.round(4 + 48 * confidence ** 2) : 20,
      number: player.colour === "step" ? String(step + 1) : "",
      words: `${text}, step ${step + 1}, confidence ${plain(confidence)}, ${reason}`,
    };
  }

  reveal(cell) { // scroll the box alone, not the page
    const top = cell.offsetTop - this.box.offsetTop;
    if (top < this.box.scrollTop || top + cell.offsetHeight > this.box.scrollTop + this.box.clientHeight) {
      this.box.scrollTop = top - this.box.clientHeight / 3;
    }
  }

  summary(k) {
    const { record } = this;
    const parts = [`step ${k} of ${record.steps.length}`, `${record.forwards[k]} forwards`, duration(record.seconds[k])];
    parts.push(`${record.masked(k)} masked`);
    if (k) {
      const step = record.steps[k - 1];
      const reasons = {};
      for (const commit of step.commits) reasons[commit[3]] = (reasons[commit[3]] || 0) + 1;
      const names = Object.entries(reasons).map(([reason, count]) => `${count} (${reason})`).join(", ");
      parts.push(`filled now: ${names || "none"}`);
      if (step.held) parts.push(`${step.held} held back by the budget`);
      parts.push(`block ${step.block[0]}–${step.block[1] - 1}`);
      parts.push(`${plain(record.filled[k] / record.forwards[k])} filled per forward`);
    }
    if (k === record.steps.length) parts.push("finished");
    return parts.join(" · ");
  }
}

function dash(index) { // a sample of the trace's line in the curves
  const line = drawing("path", {
    d: "M0 6H36", stroke: `var(--t${index})`, "stroke-width": 2.5, fill: "none", "stroke-dasharray": DASHES[index],
  });
  return drawing("svg", { class: "dllm-dash", viewBox: "0 0 36 12", "aria-hidden": "true" }, [line]);
}

// A curve per trace of one quantity over the common clock; a line marks the cursor.
class Curve {
  constructor(player, name, value, first, digits = 2, least = 1e-9) {
    Object.assign(this, { player, name, value, first, digits, least }); // first: the smallest k that has a value
    this.now = make("span");
    this.caption = make("figcaption", {}, [name, make("br"), this.now]);
    this.cursor = drawing("line", { y1: 0, y2: 100 });
    this.svg = drawing("svg", { viewBox: "0 0 300 100", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.svg.addEventListener("pointerdown", (event) => this.scrub(event));
    this.svg.addEventListener("pointermove", (event) => event.buttons && this.scrub(event));
    this.node = make("figure", {}, [this.caption, this.svg]);
    this.draw();
  }

  draw() {
    const { sides, unit } = this.player;
    const values = sides.map(({ record }) => record.steps.map((_, i) => this.value(record, i + 1)));
    if (!this.first) sides.forEach(({ record }, i) => values[i].unshift(this.value(record, 0)));
    this.top = values.flat().reduce((top, value) => Math.max(top, value), this.least);
    const paths = sides.map(({ record }, index) => {
      const points = values[index].map((value, i) => [this.x(record[unit][i + this.first]), 96 - (92 * value) / this.top]);
      const d = points.map(([x, y], i) => (i ? `H${plain(x)}V${plain(y)}` : `M${plain(x)} ${plain(y)}`)).join("");
      return drawing("path", { d, stroke: `var(--t${index})`, "stroke-dasharray": DASHES[index] });
    });
    this.svg.replaceChildren(...paths, this.cursor);
  }

  x(time) {
    return (300 * time) / (this.player.total || 1);
  }

  show(time) {
    const x = plain(this.x(time));
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    const values = this.player.sides.map(({ record, k }) => (k < this.first ? "–" : plain(this.value(record, k), this.digits)));
    this.now.textContent = `${values.join(" | ")} (axis 0–${plain(this.top, this.digits)})`;
  }

  scrub(event) {
    const { left, width } = this.svg.getBoundingClientRect();
    this.player.seek(((event.clientX - left) / width) * this.player.total);
  }
}
