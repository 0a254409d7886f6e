// One trace on the page: heading, progress, state in words, and its token cells.

const LEVELS = 8; // shades of confidence; the number is in the panel
const DASHES = ["", "7 4", "2 3"];

class Side {
  constructor(player, record, index) {
    this.player = player;
    this.state = make("div", { class: "dllm-state" });
    this.box = make("div", { class: "dllm-cells", role: "listbox" });
    this.listen();
    this.progress = make("div");
    this.done = make("span", { class: "dllm-done" });
    this.label = make("bdi");
    this.settings = make("span");
    this.folded = make("details", { class: "dllm-small" }, [make("summary", { text: "settings" }), this.settings]);
    this.node = make("section", { class: "dllm-side" }, [
      make("div", { class: "dllm-name" }, [dash(index), this.label, " ", this.done]),
      make("div", { class: "dllm-progress", "aria-hidden": "true", style: { "--own": `var(--t${index})` } }, [this.progress]),
      this.state,
      this.box,
      this.folded,
    ]);
    this.feed(record);
  }

  // Another record. Cells stay in their place where it begins with the same tokens, and with them focus and scrolling.
  feed(record) {
    const same = String(this.record?.initial) === String(record.initial);
    this.record = record;
    this.k = -1;
    this.keys = [];
    this.label.textContent = record.label;
    this.node.setAttribute("aria-label", record.label);
    this.box.setAttribute("aria-label", `tokens of ${record.label}`);
    const settings = Object.entries(record.settings).map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`);
    this.settings.textContent = settings.join(" · ");
    this.folded.hidden = !settings.length;
    if (!same) {
      const within = this.box.contains(document.activeElement);
      this.cells = record.initial.map((_, position) => this.cell(position));
      this.box.replaceChildren(...this.cells);
      this.focus(Math.max(0, record.initial.indexOf(record.mask)));
      if (within) this.cells[this.stop]?.focus({ preventScroll: true });
    }
    this.cells.forEach((cell, position) => cell.style.setProperty("--w", `${plain(this.wide(position) * 0.56 + 0.6)}em`));
    return this;
  }

  cell(position) {
    const cell = make("span", { role: "option", tabindex: "-1" });
    cell.position = position;
    return cell;
  }

  wide(position) {
    const { record } = this;
    const token = record.initial[position];
    const texts = [...record.commitsAt[position], ...record.editsAt[position]].map((event) => record.text(event.token));
    if (token !== record.mask) texts.push(record.text(token));
    return Math.min(16, Math.max(2, ...texts.map(columns))); // the same at every step: nothing jumps
  }

  listen() {
    const { player } = this;
    const on = (name, act) => this.box.addEventListener(name, (event) => {
      const cell = event.target.closest(".dllm-cell");
      if (cell) act(cell.position);
    });
    on("mouseover", (position) => player.why.explain(this, position));
    on("focusin", (position) => player.why.explain(this, position));
    on("click", (position) => player.why.pick(this, position));
    this.box.addEventListener("mouseleave", () => player.why.explain());
    this.box.addEventListener("focusout", () => player.why.explain());
  }

  focus(position) { // the one cell that Tab reaches
    const before = this.cells[this.stop];
    if (before) before.tabIndex = -1;
    this.stop = Math.min(Math.max(position, 0), this.cells.length - 1);
    if (this.cells.length) this.cells[this.stop].tabIndex = 0;
  }

  walk(key) { // from token to token; up and down go to the nearest token of the next line
    const cell = this.cells[this.stop];
    if (key === "ArrowLeft" || key === "ArrowRight") this.focus(this.stop + (key === "ArrowLeft" ? -1 : 1));
    else {
      const sign = key === "ArrowUp" ? -1 : 1;
      const far = (other) => Math.abs(other.offsetTop - cell.offsetTop) * 100 + Math.abs(other.offsetLeft - cell.offsetLeft);
      const lines = this.cells.filter((other) => sign * (other.offsetTop - cell.offsetTop) > 2);
      if (lines.length) this.focus(lines.reduce((best, other) => (far(other) < far(best) ? other : best)).position);
    }
    this.cells[this.stop].focus();
  }

  show(k, force) {
    if (k === this.k && !force) return;
    this.k = k;
    const { record } = this;
    const end = record.end(k);
    const [first, last] = record.block(k);
    const open = { guessed: 0 };
    this.cells.forEach((cell, position) => {
      const what = record.at(position, k);
      const inBlock = position >= first && position <= last;
      const look = this.look(what, inBlock, position > end);
      if (what.draft && inBlock) open.guessed += 1;
      if (this.difference?.positions.includes(position) && k >= this.difference.step) look.kind += " differs";
      if (inBlock) look.kind += ` inblock${position === first ? " first" : ""}${position === last ? " last" : ""}`;
      const key = `${look.kind}|${look.text}|${look.number}|${look.words}`;
      if (this.keys[position] === key) return;
      this.keys[position] = key;
      cell.className = `dllm-cell ${look.kind}`;
      if (cell.textContent !== look.text) cell.textContent = look.text;
      cell.setAttribute("aria-label", `position ${position}: ${look.words}`);
      if (cell.dataset.step !== look.number) cell.dataset.step = look.number; // shown small beside the text
      if (look.tint || cell.style.background) cell.style.background = look.tint;
    });
    this.progress.style.width = `${plain(100 * record.progress(k))}%`;
    this.done.textContent = k === record.steps.length && !record.running ? `${record.finished ? "✓ " : ""}${record.tokens} tokens, ${record.rate} per forward` : "";
    this.state.replaceChildren(...this.summary(k, open.guessed).map((parts) => make("div", { text: parts.join(" · ") })));
    this.player.why.refresh(this);
  }

  // Class names, text, small number, words for a screen reader, and the tint of the view by step.
  look(what, inBlock, filling) {
    const { record, player } = this;
    const behind = filling && what.state !== "prompt" ? " filling" : "";
    if (what.state === "masked") {
      const { draft } = what;
      if (!draft || player.reading === "hidden") return { kind: `masked${behind}`, text: "·", number: "", tint: "", words: "masked" };
      const remasked = player.reading === "remasked" && inBlock ? " remasked" : "";
      const moved = draft.step === this.k - 1 && draft.changed ? " changed" : "";
      const words = `masked, guess ${record.text(draft.token)}${moved ? ", changed in this step" : ""}${remasked ? ", masked again" : ""}`;
      return { kind: `masked guess${behind}${remasked}${moved}`, text: record.text(draft.token), number: "", tint: "", words };
    }
    const text = record.text(what.token);
    if (what.state === "prompt") return { kind: "prompt", text, number: "", tint: "", words: `${text}, prompt` };
    if (what.state === "hand") return { kind: `hand${behind}`, text, number: "", tint: "", words: `${text}, by hand after step ${what.edit.step + 1}` };
    const { step, confidence, reason } = what.commit;
    const byStep = player.color === "step";
    const level = byStep ? 0 : Math.round(LEVELS * confidence ** 2);
    const late = plain((100 * step) / Math.max(record.steps.length - 1, 1), 0);
    return {
      kind: `${what.state} c${level}${what.edited ? " edited" : ""}${behind}`,
      text,
      number: byStep ? String(step + 1) : "",
      tint: byStep && !behind ? `color-mix(in oklab, var(--late) ${late}%, var(--early))` : "",
      words: `${text}, step ${step + 1}, confidence ${plain(confidence)}, ${reason}${what.edited ? ", edited" : ""}`,
    };
  }

  // Scroll the box alone, not the page, so that something of the step is in sight. Called when all has been written:
  // asking for places in between would have the page laid out twice.
  reveal() {
    const { box, record, k } = this;
    if (!k || box.scrollHeight <= box.clientHeight) return;
    const tops = record.steps[k - 1].commits.map(([position]) => this.cells[position].offsetTop - box.offsetTop);
    const high = box.scrollTop, low = high + box.clientHeight;
    if (tops.length && !tops.some((top) => top >= high && top + this.cells[0].offsetHeight <= low)) {
      box.scrollTop = Math.min(...tops) - box.clientHeight / 3;
    }
  }

  // Two lines: where the decoding is, and what this step did.
  summary(k, guessed) {
    const { record, player } = this;
    const where = [record.running ? `step ${k}` : `step ${k} of ${record.steps.length}`, `${record.forwards[k]} forward passes`, duration(record.seconds[k]),
      `${record.masked(k)} masked`];
    if (!k) return [where, ["nothing filled yet"]];
    const { commits, held } = record.steps[k - 1];
    const counts = {};
    for (const commit of commits) counts[commit[3]] = (counts[commit[3]] || 0) + 1;
    const names = Object.entries(counts).map(([reason, count]) => `${count} (${reason})`).join(", ") || "none";
    const [first, last] = record.block(k);
    const what = player.reading === "remasked" && record.drafted
      ? [`${commits.length + guessed} guessed`, `${guessed} masked again`, `kept: ${names}`]
      : [`filled now: ${names}`];
    if (held) what.push(`${held} held back`);
    what.push(first === last ? `position ${first}` : `block ${first}–${last}`);
    if (k === record.steps.length) what.push(record.running ? "it goes on" : record.finished ? "finished" : "no further step recorded");
    return [where, what];
  }
}

function dash(index) { // a sample of the trace's line in the curves
  const line = drawing("path", {
    d: "M0 6H36", stroke: `var(--t${index})`, "stroke-width": 3, fill: "none", "stroke-dasharray": DASHES[index],
  });
  return drawing("svg", { class: "dllm-dash", viewBox: "0 0 36 12", "aria-hidden": "true" }, [line]);
}
