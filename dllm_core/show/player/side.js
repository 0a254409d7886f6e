// One trace on the page: heading, progress, state in words, and its token cells.

class Side {
  constructor(player, record) {
    this.player = player;
    this.cells = [];
    this.label = make("bdi");
    this.whole = make("button", { type: "button", class: "dllm-jump", text: "whole prompt", on: { click: () => this.unfold(!this.unfolded) } });
    this.name = make("div", { class: "dllm-name" }, [make("span"), this.label, this.whole]);
    this.progress = make("div");
    this.done = make("span", { class: "dllm-done" });
    this.state = make("div", { class: "dllm-state" });
    this.prompt = make("div", { class: "dllm-prompt" });
    this.box = make("div", { class: "dllm-cells", role: "listbox" });
    this.settings = make("span");
    this.folded = make("details", { class: "dllm-small" }, [make("summary", { text: "settings" }), this.settings]);
    this.node = make("section", { class: "dllm-side" }, [
      this.name,
      make("div", { class: "dllm-line" }, [make("div", { class: "dllm-progress", "aria-hidden": "true" }, [this.progress]), this.done]),
      this.state,
      this.box,
      this.folded,
    ]);
    this.listen();
    this.sized = new ResizeObserver(() => this.reserve());
    this.sized.observe(this.box);
    this.feed(record);
  }

  // Another record. Cells stay in their place where it begins with the same tokens, and with them focus and scrolling.
  feed(record) {
    const same = String(this.record?.initial) === String(record.initial);
    Object.assign(this, { record, k: -1 });
    this.label.textContent = this.label.title = record.label;
    this.node.setAttribute("aria-label", record.label);
    this.box.setAttribute("aria-label", `tokens of ${record.label}`);
    this.done.textContent = record.running ? "" : `${record.finished ? "✓ " : ""}${record.tokens} tokens, ${record.rate} per forward`;
    const settings = Object.entries(record.settings).map(([key, value]) => `${key.replaceAll("_", " ")} ${value}`);
    this.settings.textContent = settings.join(" · ");
    this.folded.hidden = !settings.length;
    this.wide = widthOf(record);
    this.box.style.setProperty("--w", this.wide);
    if (!same) this.fill();
    return this;
  }

  // New cells. The prompt before the answer stands in one line.
  fill() {
    const { record } = this;
    const within = this.box.contains(document.activeElement);
    this.first = Math.max(0, record.initial.indexOf(record.mask));
    this.cells = record.initial.map((_, position) => Object.assign(make("span", { role: "option", tabindex: "-1" }), { position }));
    this.prompt.replaceChildren(...this.cells.slice(0, this.first));
    this.box.replaceChildren(...(this.first ? [this.prompt] : []), ...this.cells.slice(this.first));
    this.keys = [];
    this.opened = false;
    this.unfold(false);
    this.focus(this.first);
    if (within) this.cells[this.stop]?.focus({ preventScroll: true });
    if (this.cells[this.first]) this.sized.observe(this.cells[this.first]);
  }

  unfold(open) {
    this.unfolded = open;
    this.prompt.classList.toggle("open", open);
    this.whole.setAttribute("aria-expanded", String(open));
    this.reserve();
  }

  // Room for all cells, so that nothing below moves when those behind the end fold.
  reserve() {
    const { box, prompt, cells: { [this.first]: cell } } = this;
    if (!cell?.offsetWidth) return;
    const line = Math.max(1, Math.floor((box.clientWidth - 10) / (cell.offsetWidth + 4)));
    const lines = Math.ceil((this.cells.length - this.first) / line);
    box.style.setProperty("--all", `${lines * (cell.offsetHeight + 9) + (this.first ? prompt.offsetHeight + 9 : 0) + 7}px`);
    this.whole.hidden = !this.unfolded && prompt.scrollHeight <= prompt.clientHeight + 2;
  }

  listen() {
    const { player } = this;
    const on = (name, act) => this.box.addEventListener(name, (event) => {
      const cell = event.target.closest(".dllm-cell");
      if (cell) act(cell.position);
    });
    on("mouseover", (position) => player.why.explain(this, position));
    on("focusin", (position) => {
      this.focus(position);
      player.why.explain(this, position);
    });
    on("click", (position) => this.choose(position));
    this.box.addEventListener("mouseleave", () => player.why.explain());
    this.box.addEventListener("focusout", ({ relatedTarget }) => { // a button of the panel stays under the mouse that presses it
      if (!player.why.node.contains(relatedTarget)) player.why.explain();
    });
  }

  choose(position) { // a folded tail opens, any other token is kept
    if (!this.cells[position].classList.contains("tail")) return this.player.why.pick(this, position);
    this.opened = true;
    this.show(this.k, true);
    this.focus(position);
  }

  setLine(number) {
    this.line = lineOf(this.record, number);
    this.node.style.setProperty("--own", this.line.stroke);
    this.name.firstChild.replaceWith(dash(this));
  }

  focus(position) { // the one cell that Tab reaches
    const before = this.cells[this.stop];
    if (before) before.tabIndex = -1;
    this.stop = Math.min(Math.max(position, 0), this.cells.length - 1);
    if (this.cells.length) this.cells[this.stop].tabIndex = 0;
  }

  walk(key) { // from token to token; up and down go to the nearest token of the next line
    const cell = this.cells[this.stop];
    const seen = this.cells.filter((other) => other.offsetWidth);
    if (key === "ArrowLeft" || key === "ArrowRight") this.focus((seen[seen.indexOf(cell) + (key === "ArrowLeft" ? -1 : 1)] ?? cell).position);
    else {
      const sign = key === "ArrowUp" ? -1 : 1;
      const far = (other) => Math.abs(other.offsetTop - cell.offsetTop) * 100 + Math.abs(other.offsetLeft - cell.offsetLeft);
      const lines = seen.filter((other) => sign * (other.offsetTop - cell.offsetTop) > 2);
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
    const [tail, behind] = this.opened ? [] : tailOf(record, k, end);
    let guessed = 0;
    this.cells.forEach((cell, position) => {
      const what = record.at(position, k);
      const inBlock = position >= first && position <= last;
      const look = lookOf(this, what, inBlock, position > end);
      if (what.draft && inBlock) guessed += 1;
      if (this.difference?.positions.includes(position) && k >= this.difference.step) look.kind += " differs";
      if (inBlock) look.kind += ` inblock${position === last ? " last" : ""}`;
      if (position === tail) this.foldInto(look, behind - tail);
      else if (position > tail && position < behind) look.kind += " away";
      this.write(cell, look);
    });
    if (this.stop > tail && this.stop < behind) this.focus(tail);
    this.progress.style.width = `${plain(100 * record.progress(k))}%`;
    this.done.style.visibility = k === record.steps.length ? "visible" : "hidden"; // its room is kept
    this.state.replaceChildren(...summaryOf(this, guessed).map((parts) => make("div", { text: parts.join(" · ") })));
    this.player.why.refresh(this);
  }

  foldInto(look, count) {
    look.kind += " tail";
    look.text += ` × ${count}`;
    look.words = `${count} tokens behind the end, folded: click or Enter opens them`;
  }

  write(cell, look) {
    const key = `${look.kind}|${look.text}|${look.number}|${look.words}|${this.wide}`;
    if (this.keys[cell.position] === key) return;
    this.keys[cell.position] = key;
    const { share, two } = cell.parentNode === this.prompt || look.kind.endsWith(" tail") ? { share: 1 } : fitted(look.text, this.wide);
    cell.className = `dllm-cell ${look.kind}${two ? " two" : ""}`;
    cell.style.setProperty("--fit", plain(share, 3));
    if (cell.textContent !== look.text) cell.textContent = look.text;
    cell.setAttribute("aria-label", `position ${cell.position}: ${look.words}`);
    cell.title = share < 1 ? look.text : "";
    if (cell.dataset.step !== look.number) cell.dataset.step = look.number; // shown small beside the text
    if (look.tint || cell.style.background) cell.style.background = look.tint;
  }

  // Scroll the box alone, not the page, so that something of the step is in sight. Called when all has been written:
  // asking for places in between would have the page laid out twice.
  reveal() {
    const { box, record, k } = this;
    if (!k || box.scrollHeight <= box.clientHeight) return;
    const cells = record.steps[k - 1].commits.map(([position]) => this.cells[position]).filter((cell) => cell.offsetWidth);
    const tops = cells.map((cell) => cell.offsetTop);
    const high = box.scrollTop, low = high + box.clientHeight;
    if (tops.length && !tops.some((top) => top >= high && top + cells[0].offsetHeight <= low)) {
      box.scrollTop = Math.min(...tops) - box.clientHeight / 3;
    }
  }
}
