// The decoding player: traces on a common clock, playback and keys. The other files of this folder come before it.
// start(root, data) replaces the static form inside root; where it cannot, the static form stays.

async function start(root, data) {
  if (!root || root.dataset.started) return;
  root.dataset.started = "1";
  try {
    data = await unpacked(data);
  } catch {
    root.prepend(make("div", { text: "This browser cannot unpack the data (DecompressionStream is missing): static form." }));
    return;
  }
  root.querySelector(".dllm-static").remove();
  const player = root.player = new Player(root, data); // for who feeds it
  if (root.dataset.at === "end") player.go(Infinity); // a decoding that is watched while it runs
}

class Player {
  constructor(root, data) {
    Object.assign(this, { root, unit: data.clock, index: 0, color: "confidence", reading: "kept", speed: 1 });
    this.why = new Why(this);
    this.sides = data.traces.map((trace) => new Side(this, new Record(trace)));
    root.setAttribute("tabindex", "0");
    root.setAttribute("role", "group");
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab keeps its one-letter commands to itself
    root.addEventListener("keydown", (event) => this.key(event));
    this.bar = new Bar(this);
    this.setTicks(data.clock);
    this.curves = [
      new Curve(this, "still masked (positions)", (record, k) => record.masked(k), 0, 0),
      new Curve(this, "tokens per forward so far", (record, k) => record.written[k] / record.forwards[k], 1),
      new Curve(this, "mean confidence (0 to 1)", (record, k) => record.steps[k - 1].confidence, 1, 2, 1),
      new Curve(this, "mean entropy (nats)", (record, k) => record.steps[k - 1].entropy, 1),
    ];
    this.box = make("div", { class: "dllm-sides" });
    root.append(
      make("div", { class: "dllm-top" }, [this.bar.node, this.why.node]), // stays in sight with the tokens
      this.box,
      make("div", { class: "dllm-curves" }, this.curves.map((curve) => curve.node)),
      this.bar.legend,
      this.bar.keys,
    );
    this.fed();
    this.show(true);
  }

  // Other records, or more of the same, in the form of the start. What the viewer chose stays: views, speed, place, kept
  // token, focus. A player that stands at its end follows the new end.
  update({ traces }) {
    const { playing } = this;
    const time = !playing && this.index === this.ticks.length - 1 ? Infinity : this.ticks[this.index];
    const picked = this.why.picked && { ...this.why.picked };
    if (picked) this.why.mark(false);
    this.sides.slice(traces.length).forEach((side) => side.node.remove());
    this.sides = traces.map((trace, index) => this.sides[index]?.feed(new Record(trace)) ?? new Side(this, new Record(trace)));
    const holds = (place) => this.sides.includes(place?.side) && place.position < place.side.cells.length;
    this.why.picked = holds(picked) ? picked : null;
    if (!holds(this.why.shown)) this.why.shown = null;
    this.setTicks(this.unit);
    this.fed();
    this.index = Math.max(0, countBefore(this.ticks, time + 1e-9, Number) - 1);
    this.show(true);
    this.why.refresh();
    if (playing) this.play();
  }

  fed() {
    this.root.setAttribute("aria-label", `decoding player: ${this.sides.map(({ record }) => record.label).join(", ")}`);
    const seen = {};
    this.sides.forEach((side) => {
      const { style } = side.record;
      seen[style] = (seen[style] ?? -1) + 1;
      side.setLine(seen[style]);
      side.node.querySelector(".dllm-differs")?.remove();
      side.node.append(...[differenceLine(side)].filter(Boolean));
      if (!side.node.isConnected) this.box.append(side.node);
    });
    this.curves.forEach((curve) => curve.draw());
    this.bar.fed();
    this.bar.drawLegend();
  }

  // The common clock: every time at which any trace finished a step.
  setTicks(unit) {
    this.unit = unit;
    this.ticks = [...new Set(this.sides.flatMap(({ record }) => record[unit]))].sort((a, b) => a - b);
    this.total = this.ticks.at(-1);
    this.running = this.sides.some(({ record }) => record.running);
    this.span = Math.max(this.total, ...this.sides.map(({ record }) => record.most(unit))); // of the curves' axis
    this.bar.slider.max = this.ticks.length - 1;
  }

  setClock(unit) {
    this.setTicks(unit);
    this.curves.forEach((curve) => curve.draw());
    this.seek(this.sides[0].record[unit][this.sides[0].k]);
  }

  setSpeed(speed) {
    this.speed = speed;
    if (this.playing) this.play();
  }

  setView(name, value) {
    this[name] = value;
    this.root.classList.toggle("bystep", this.color === "step");
    this.bar.drawLegend();
    if (name === "color" && value === "step" && this.index === 0) this.go(Infinity); // the finished text by time
    this.show(true);
  }

  seek(time) {
    this.go(Math.max(0, countBefore(this.ticks, time + 1e-9, Number) - 1));
  }

  go(index) {
    this.stop();
    this.index = Math.min(Math.max(index, 0), this.ticks.length - 1);
    this.show();
  }

  show(force = false) {
    const time = this.ticks[this.index];
    this.sides.forEach((side) => side.show(side.record.stepAt(this.unit, time), force));
    this.curves.forEach((curve) => curve.show(time));
    this.sides.forEach((side) => side.reveal());
    const [at, all] = [time, this.total].map((value) => (this.unit === "forwards" ? value : duration(value)));
    const words = `${at} of ${all}${this.unit === "forwards" ? " forward passes" : ""}${this.running ? " so far" : ""}`;
    const slower = this.scale / 1000;
    this.bar.show(this.index, words, this.playing && this.unit === "seconds" && slower > 1.05 ? `, ${plain(slower, 1)} × slower` : "");
  }

  // Milliseconds of real time for one unit of the clock: the decoding plays in 3 to 12 s.
  get scale() {
    const total = this.unit === "forwards" ? Math.min(12, Math.max(3, this.total * 0.45)) : Math.min(12, Math.max(6, this.total));
    return (1000 * total) / (this.total || 1) / this.speed;
  }

  toggle() {
    if (this.playing) this.stop();
    else {
      if (this.index === this.ticks.length - 1) this.index = 0;
      this.play();
    }
    this.show();
  }

  play() {
    cancelAnimationFrame(this.playing);
    const begun = performance.now();
    const from = this.ticks[this.index];
    const frame = (now) => {
      if (!this.root.isConnected) return;
      const time = from + Math.max(0, now - begun) / this.scale;
      const index = countBefore(this.ticks, time + 1e-9, Number) - 1;
      if (index !== this.index) {
        this.index = index;
        this.show();
      }
      if (this.index < this.ticks.length - 1) this.playing = requestAnimationFrame(frame);
      else this.go(Infinity);
    };
    this.playing = requestAnimationFrame(frame);
    this.bar.setPlaying(true);
    this.why.node.setAttribute("aria-live", "off");
  }

  stop() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    this.bar.setPlaying(false);
    this.why.node.setAttribute("aria-live", "polite");
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { target } = event;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const side = this.sides.find(({ box }) => box.contains(target));
    const usesKeys = ["SELECT", "INPUT"].includes(target.tagName);
    const presses = ["BUTTON", "SELECT", "SUMMARY"].includes(target.tagName);
    const actions = {
      " ": () => this.toggle(), ",": () => this.go(this.index - 1), ".": () => this.go(this.index + 1),
      ArrowLeft: () => this.go(this.index - 1), ArrowRight: () => this.go(this.index + 1),
      PageUp: () => this.go(this.index - 10), PageDown: () => this.go(this.index + 10),
      Home: () => this.go(0), End: () => this.go(Infinity), f: () => this.bar.fullScreen(),
      ...Object.fromEntries(Object.keys(this.bar.choices).map((name) => [name, () => this.bar.cycle(name)])),
      ...(this.why.picked ? { Escape: () => this.why.release() } : {}),
    };
    if (side && key.startsWith("Arrow")) side.walk(key);
    else if (side && key === "Enter") side.choose(side.stop);
    else if (!actions[key] || (usesKeys && key.length > 1 && key !== "Escape") || (key === " " && presses)) return;
    else actions[key]();
    event.preventDefault();
    event.stopPropagation();
  }
}
