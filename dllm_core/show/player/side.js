// One trace on the page: heading, progress, state in words, and its token cells.

const LEVELS = 8; // shades of confidence; the number is in the panel
const TAIL = 6; // ends behind the end, from how many on one cell stands for them

class Side {
  constructor(player, record, index) {
    Object.assign(this, { player, index });
    this.state = make("div", { class: "dllm-state" });
    this.box = make("div", { class: "dllm-cells", role: "listbox" });
    this.listen();
    this.progress = make("div");
    this.name = make("bdi");
    this.done = make("span", { class: "dllm-done" });
    this.head = make("div", { class: "dllm-name" });
    this.settings = make("span");
    this.node = make("section", { class: "dllm-side" }, [
      this.head,
      make("div", { class: "dllm-progress", "aria-hidden": "true" }, [this.progress]),
      this.state,
      this.box,
      make("details", { class: "dllm-small" }, [make("summary", { text: "settings" }), this.settings]),
    ]);
    this.feed(record);
  }

  // Another record, or the same one grown. Cells of the same start stay, and with them focus and place of scrolling.
  feed(record) {
    const same = this.record && String(record.initial) === String(this.record.initial);
    this.record = record;
    this.k = -1;
    this.color = colorOf(record, this.index);
    this.node.style.setProperty("--own", this.color);
    this.node.setAttribute("aria-label", record.label);
    this.box.setAttribute("aria-label", `tokens of ${record.label}`);
    this.name.textContent = record.label;
    this.head.replaceChildren(dash(this), this.name, " ", this.done);
    const settings = Object.entries(record.settings).map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`).join(" · ");
    this.settings.textContent = settings;
    this.settings.parentNode.hidden = !settings;
    if (!same) this.layOut();
    const width = Math.max(widthClass(record), same ? this.width : 0);
    if (width !== this.width || !same) this.keys = []; // every text is fitted anew
    this.width = width;
    this.box.style.setProperty("--w", `${width}em`);
    const [first, last] = record.block(1);
    const open = record.initial.indexOf(record.mask);
    this.box.classList.toggle("oneblock", first <= open && last >= record.initial.lastIndexOf(record.mask));
  }

  // Cells in a row, those of the prompt on a line of their own.
  layOut() {
    const { initial, mask } = this.record;
    const within = this.box.contains(document.activeElement);
    this.cells = initial.map((token, position) => {
      const own = token === mask ? {} : { style: { "--w": `${plain(Math.min(16, widthOf(this.record.text(token)) + FRAME))}em` } };
      return Object.assign(make("span", { role: "option", tabindex: "-1", ...own }), { position });
    });
    const open = Math.max(0, initial.indexOf(mask));
    const inFront = open > 1 && initial.filter((token) => token !== mask).length === open; // not a text with gaps
    const prompt = make("div", { class: "dllm-prompt", role: "group", "aria-label": "prompt", tabindex: "0" }, inFront ? this.cells.slice(0, open) : []);
    this.box.replaceChildren(...(inFront ? [prompt] : []), ...this.cells.slice(inFront ? open : 0));
    this.tail = Infinity;
    this.focus(this.stop ?? open);
    if (within) this.cells[this.stop]?.focus({ preventScroll: true });
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
    this.box.addEventListener("focusout", ({ relatedTarget }) => { // a button of the panel stays under the mouse that presses it
      if (!player.why.node.contains(relatedTarget)) player.why.explain();
    });
  }

  focus(position) { // the one cell that Tab reaches
    if (this.cells[this.stop]) this.cells[this.stop].tabIndex = -1;
    this.stop = Math.min(Math.max(position, 0), this.cells.length - 1, this.tail);
    if (this.cells.length) this.cells[this.stop].tabIndex = 0;
  }

  compare() { // with the first trace, where this one is a branch
    this.node.querySelector(".dllm-differs")?.remove();
    this.node.append(...[differenceLine(this)].filter(Boolean));
  }

  walk(key) { // from token to token; up and down go to the nearest token of the next line
    const cell = this.cells[this.stop];
    if (key === "ArrowLeft" || key === "ArrowRight") this.focus(this.stop + (key === "ArrowLeft" ? -1 : 1));
    else {
      const sign = key === "ArrowUp" ? -1 : 1;
      const far = (other) => Math.abs(other.offsetTop - cell.offsetTop) * 100 + Math.abs(other.offsetLeft - cell.offsetLeft);
      const lines = this.cells.filter((other) => sign * (other.offsetTop - cell.offsetTop) > 2 && !(other.position > this.tail));
      if (lines.length) this.focus(lines.reduce((best, other) => (far(other) < far(best) ? other : best)).position);
    }
    this.cells[this.stop].focus();
  }

  show(k, force) {
    if (k === this.k && !force) return;
    this.k = k;
    const { record, player } = this;
    const end = record.end(k);
    const [first, last] = record.block(k);
    const open = { guessed: 0 };
    const whats = this.cells.map((_, position) => record.at(position, k));
    this.tail = whats.findLastIndex((what, position) => position <= end || !record.ends.includes(what.token)) + 1;
    if (this.cells.length - this.tail < TAIL) this.tail = Infinity;
    if (this.stop > this.tail) this.focus(this.tail);
    this.cells.forEach((cell, position) => {
      const what = whats[position];
      const inBlock = position >= first && position <= last;
      const look = this.look(what, inBlock, position > end);
      if (position === this.tail) this.collapse(look);
      else if (position > this.tail) look.kind += position < this.tail + 3 ? " away" : " hidden";
      if (what.draft && inBlock) open.guessed += 1;
      if (this.difference?.positions.includes(position) && k >= this.difference.step) look.kind += " differs";
      if (inBlock) look.kind += ` inblock${position === first ? " first" : ""}${position === last ? " last" : ""}`;
      const key = `${look.kind}|${look.text}|${look.number}|${look.words}`;
      if (this.keys[position] === key) return;
      this.keys[position] = key;
      cell.className = `dllm-cell ${look.kind}`;
      if (cell.textContent !== look.text) this.write(cell, look.text);
      cell.setAttribute("aria-label", `position ${position}: ${look.words}`);
      if (cell.dataset.step !== look.number) cell.dataset.step = look.number; // shown small beside the text
      if (look.tint || cell.style.background) cell.style.background = look.tint;
    });
    this.progress.style.width = `${plain(100 * record.progress(k))}%`;
    const count = `${record.tokens} token${record.tokens === 1 ? "" : "s"}`;
    const now = record.finished ? `✓ ${count}, ${record.rate} per forward` : `${record.running ? "running, " : ""}${count} so far`;
    this.done.textContent = k < record.steps.length ? "" : now;
    this.state.replaceChildren(...record.summary(k, open.guessed, player.reading === "remasked").map((parts) => make("div", { text: parts.join(" · ") })));
    player.why.refresh(this);
  }

  // A text in its cell: smaller where it is long, and whole in a note under the mouse where it is small.
  write(cell, text) {
    cell.textContent = text;
    const { record, width } = this;
    const fit = record.initial[cell.position] === record.mask ? fitOf(text, cell.position === this.tail ? 3 * width : width) : 1;
    if (fit < 1) cell.style.setProperty("--fit", plain(Math.max(fit, SMALLEST), 3));
    else cell.style.removeProperty("--fit");
    if (fit < 0.8) cell.title = text;
    else cell.removeAttribute("title");
  }

  // One cell stands for all ends from its position on.
  collapse(look) {
    const count = this.cells.length - this.tail;
    look.kind += " tail";
    look.text += ` × ${count}`;
    look.words = `and all ${count - 1} behind it: ${look.words}`;
  }

  // Class names, text, small number, words for a screen reader, tint of the view by step.
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
    const tops = record.steps[k - 1].commits.map(([position]) => this.cells[position].offsetTop);
    const high = box.scrollTop, low = high + box.clientHeight;
    if (tops.length && !tops.some((top) => top >= high && top + this.cells[0].offsetHeight <= low)) {
      box.scrollTop = Math.min(...tops) - box.clientHeight / 3;
    }
  }
}
