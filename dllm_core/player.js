// The decoding player: a common clock, controls, keys and the panel that explains a token.
// start(root, data) replaces the static form inside root. player_record.js and player_side.js come before this file.

const SPEEDS = [0.25, 0.5, 1, 2, 4];

async function start(root, data) {
  if (!root || root.dataset.started) return;
  root.dataset.started = "1";
  if (data.deflate) data = await inflate(data.deflate);
  root.querySelector(".dllm-static").remove();
  new Player(root, data);
}

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

class Player {
  constructor(root, data) {
    Object.assign(this, { root, data, unit: data.clock, index: 0, colour: "confidence", guesses: "faint", speed: 1 });
    this.sides = data.traces.map((trace, index) => new Side(this, new Record(trace), index));
    root.setAttribute("tabindex", "0");
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", `decoding player: ${data.traces.map((trace) => trace.label).join(", ")}`);
    root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab keeps its one-letter commands to itself
    root.addEventListener("keydown", (event) => this.key(event));
    this.why = make("div", { class: "dllm-why", "aria-live": "polite" });
    this.setClock(data.clock, 0);
    this.curves = [
      new Curve(this, "still masked", (record, k) => record.masked(k), 0, 0),
      new Curve(this, "filled per forward, so far", (record, k) => record.filled[k] / record.forwards[k], 1),
      new Curve(this, "mean confidence of candidates", (record, k) => record.steps[k - 1].confidence, 1, 2, 1),
      new Curve(this, "mean entropy (nats)", (record, k) => record.steps[k - 1].entropy, 1),
    ];
    root.append(
      this.controls(),
      make("div", {
        class: "dllm-keys",
        text: "Keys: space play · ← → or , . step · Home End · C colour · G guesses. Tab to the tokens, then ← → walks them.",
      }),
      make("div", { class: "dllm-sides" }, this.sides.map((side) => side.node)),
      this.legend(),
      this.why,
      make("div", { class: "dllm-curves" }, this.curves.map((curve) => curve.node)),
    );
    this.show(true);
  }

  controls() {
    const button = (text, name, act) => make("button", { type: "button", text, "aria-label": name, title: name, on: { click: act } });
    this.playButton = button("▶", "play", () => this.toggle());
    this.slider = make("input", {
      type: "range", min: 0, step: 1, "aria-label": "position on the clock", on: { input: () => this.go(Number(this.slider.value)) },
    });
    this.clock = make("span", { class: "dllm-clock" });
    this.slider.max = this.ticks.length - 1;
    const parts = [
      button("|◀", "to the start", () => this.go(0)),
      button("◁", "one step back", () => this.go(this.index - 1)),
      this.playButton,
      button("▷", "one step on", () => this.go(this.index + 1)),
      button("▶|", "to the end", () => this.go(this.ticks.length - 1)),
      this.slider,
      this.clock,
      this.choice("clock", ["forwards", "seconds"], this.unit, (value) => this.setClock(value)),
      this.choice("speed", SPEEDS.map((value) => [String(value), `${value} ×`]), "1", (value) => this.setSpeed(Number(value))),
      (this.colourChoice = this.choice("colour", [["confidence", "confidence"], ["step", "step filled"]], this.colour,
        (value) => this.setView("colour", value))),
    ];
    if (this.sides.some(({ record }) => record.draftsAt.some((events) => events.length))) {
      this.guessChoice = this.choice("guesses", [["faint", "shown"], ["struck", "struck out (remasked)"], ["hidden", "hidden"]],
        this.guesses, (value) => this.setView("guesses", value));
      parts.push(this.guessChoice);
    }
    return make("div", { class: "dllm-bar", role: "toolbar", "aria-label": "playback" }, parts);
  }

  choice(name, values, chosen, act) {
    const options = values.map((value) => {
      const [key, text] = Array.isArray(value) ? value : [value, value];
      return make("option", { value: key, text, ...(key === chosen ? { selected: "" } : {}) });
    });
    return make("label", {}, [`${name} `, make("select", { on: { change: (event) => act(event.target.value) } }, options)]);
  }

  legend() {
    const sample = (kind, text, words) => make("span", {}, [
      make("span", { class: `dllm-cell ${kind}`, text, style: { "--shade": "30%" } }), words,
    ]);
    return make("div", { class: "dllm-legend" }, [
      sample("prompt", "a", "given"), sample("masked", "·", "masked (with the model's guess)"), sample("now", "a", "filled in this step"),
      sample("before", "a", "filled before, darker = more confident"),
      ...(this.sides.some(({ record }) => record.commitsAt.some((events) => events.length > 1)) ? [sample("before edited", "a", "edited")] : []),
      sample("before filling", "a", "after the end: not part of the answer"),
      sample("inblock", "a", "in the current block"),
    ]);
  }

  // The common clock: every time at which any trace finished a step.
  setClock(unit, step = this.sides[0].k) {
    this.unit = unit;
    this.ticks = [...new Set(this.sides.flatMap(({ record }) => record[unit]))].sort((a, b) => a - b);
    this.total = this.ticks.at(-1);
    if (!this.curves) return;
    this.slider.max = this.ticks.length - 1;
    this.curves.forEach((curve) => curve.draw());
    this.seek(this.sides[0].record[unit][step]);
    this.show();
  }

  setSpeed(speed) {
    this.speed = speed;
    if (this.playing) this.play();
  }

  setView(name, value) {
    this[name] = value;
    this.sides.forEach((side) => side.box.classList.toggle("bystep", this.colour === "step"));
    this.show(true);
  }

  seek(time) {
    this.go(Math.max(0, this.ticks.findLastIndex((tick) => tick <= time + 1e-9)));
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
    this.slider.value = this.index;
    const words = this.unit === "forwards" ? `${time} of ${this.total} forwards` : `${duration(time)} of ${duration(this.total)}`;
    this.clock.textContent = this.playing && this.unit === "seconds" ? `${words}, ${plain(this.scale / 1000, 1)} × slower` : words;
    this.slider.setAttribute("aria-valuetext", words);
    if (!this.hovered) this.explain();
  }

  // Milliseconds on the wall for one unit of the clock: a whole round takes 3 to 12 s.
  get scale() {
    const whole = this.unit === "forwards" ? Math.min(12, Math.max(3, this.total * 0.45)) : Math.min(12, Math.max(6, this.total));
    return (1000 * whole) / (this.total || 1) / this.speed;
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
      const index = this.ticks.findLastIndex((tick) => tick <= time + 1e-9);
      if (index !== this.index) {
        this.index = index;
        this.show();
      }
      if (this.index < this.ticks.length - 1) this.playing = requestAnimationFrame(frame);
      else {
        this.stop();
        this.show();
      }
    };
    this.playing = requestAnimationFrame(frame);
    this.buttonSays("❚❚", "pause");
    this.why.setAttribute("aria-live", "off");
  }

  stop() {
    if (!this.playing) return;
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    this.buttonSays("▶", "play");
    this.why.setAttribute("aria-live", "polite");
  }

  buttonSays(text, name) {
    this.playButton.textContent = text;
    this.playButton.setAttribute("aria-label", name);
    this.playButton.title = name;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    const cell = target.classList.contains("dllm-cell");
    const own = target.tagName === "SELECT" || target.tagName === "INPUT";
    const actions = {
      " ": () => this.toggle(), ",": () => this.go(this.index - 1), ".": () => this.go(this.index + 1),
      ArrowLeft: () => this.go(this.index - 1), ArrowRight: () => this.go(this.index + 1),
      Home: () => this.go(0), End: () => this.go(this.ticks.length - 1),
      c: () => this.cycle(this.colourChoice), g: () => this.guessChoice && this.cycle(this.guessChoice),
    };
    const act = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (cell && event.key.startsWith("Arrow")) this.walk(target, event.key);
    else if (!act || (own && event.key.length > 1) || (event.key === " " && ["BUTTON", "SELECT", "SUMMARY"].includes(target.tagName))) return;
    else act();
    event.preventDefault();
    event.stopPropagation();
  }

  cycle(label) {
    const select = label.querySelector("select");
    select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
    select.dispatchEvent(new Event("change"));
  }

  walk(cell, key) { // from token to token; up and down go to the nearest token of the next line
    const side = this.sides.find(({ cells }) => cells.includes(cell));
    const here = side.cells.indexOf(cell);
    let next = here + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 0, ArrowDown: 0 }[key];
    if (next === here) {
      const sign = key === "ArrowUp" ? -1 : 1;
      const far = (other) => Math.abs(other.offsetTop - cell.offsetTop) * 100 + Math.abs(other.offsetLeft - cell.offsetLeft);
      const lines = side.cells.filter((other) => sign * (other.offsetTop - cell.offsetTop) > 2);
      next = lines.length ? side.cells.indexOf(lines.reduce((best, other) => (far(other) < far(best) ? other : best))) : here;
    }
    side.focus(next);
    side.cells[side.stop].focus();
  }

  pick(side, position) {
    const again = this.picked && this.picked.side === side && this.picked.position === position;
    this.picked?.side.cells[this.picked.position].classList.remove("picked");
    this.picked = again ? null : { side, position };
    side.focus(position);
    this.explain(side, position);
  }

  // The panel below: the token under the mouse or focus, else the picked one, else nothing but a hint.
  explain(side, position) {
    this.hovered = Boolean(side);
    if (!side && this.picked) ({ side, position } = this.picked);
    this.picked?.side.cells[this.picked.position].classList.add("picked");
    if (!side) {
      this.why.replaceChildren("Point at a token, or Tab to it, to see when and why it was chosen; click to keep it here.");
      return;
    }
    const { record, k } = side;
    const what = record.at(position, k);
    const lines = [];
    const meter = (share, other) => make("span", { class: `dllm-meter${other ? " other" : ""}`, style: { width: `${plain(share * 8)}em` } });
    const shown = what.state === "masked" && what.draft ? what.draft.token : what.token;
    const where = `${this.sides.length > 1 ? `${record.label}, ` : ""}position ${position}, `;
    if (what.state === "prompt") lines.push([make("b", { text: record.text(shown) }), ` ${where}token ${shown}: given, never masked.`]);
    else if (what.commit) {
      const { step, confidence, reason, others, token } = what.commit;
      lines.push([make("b", { text: record.text(token) }), ` ${where}token ${token}: filled in step ${step + 1} (forward ${record.forwards[step + 1]}).`]);
      lines.push([`Reason: ${reason}: ${this.data.reasons[reason] ?? "unknown"}.`]);
      lines.push(["confidence ", meter(confidence), plain(confidence, 3), ...(others.length ? ["; runners-up: "] : []),
        ...others.flatMap(([other, share]) => [make("b", { text: record.text(other) }), " ", meter(share, true), `${plain(share, 3)}  `])]);
    } else {
      lines.push([`${where}still masked after step ${k}. `, ...(what.draft
        ? ["The model's guess: ", make("b", { text: record.text(shown) }), ` ${plain(what.draft.confidence, 3)}, not kept.`]
        : [what.inBlock ? "No guess recorded." : "Outside the blocks decoded so far."])]);
    }
    const until = what.commit ? what.commit.step : k;
    const drafts = record.draftsAt[position].filter((event) => event.step < Math.min(until, k)).slice(-6);
    if (drafts.length > (what.commit ? 0 : 1)) {
      lines.push(["guesses before: ", ...drafts.flatMap((event, i) => [
        i ? " → " : "", make("b", { text: record.text(event.token) }), ` ${plain(event.confidence)} (step ${event.step + 1})`,
      ])]);
    }
    this.why.replaceChildren(...lines.map((parts) => make("div", {}, parts)));
  }
}
