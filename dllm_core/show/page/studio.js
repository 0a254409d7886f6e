// The decodings on the page: asks the worker for them, feeds the player, and tells the views what is shown.
// A side: {id, request, trace, running, reused}. The first one follows the form; branches and kept ones stand beside it.

const MOST_SIDES = 3;

class PagePlayer extends Player {
  show(force) {
    super.show(force);
    this.root.dispatchEvent(new Event("shown"));
  }
}

class Studio {
  constructor() {
    Object.assign(this, { sides: [], count: 0, models: {}, step: Infinity });
    const code = new Blob([byId("engine").textContent], { type: "text/javascript" });
    this.worker = new Worker(URL.createObjectURL(code));
    this.worker.onmessage = ({ data }) => this.heard(data);
    this.form = new Form((name) => {
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => this.decode(), name === "style" ? 0 : 150);
    });
    byId("request").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.sides.forEach((side) => this.stop(side));
      else this.decode();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.decode();
    });
    byId("beside").addEventListener("click", () => this.keep());
  }

  get running() {
    return this.sides.some((side) => side.running);
  }

  // The form's request in the place of the first side.
  decode() {
    const request = this.form.request();
    const others = this.sides.slice(1).filter((side) => side.request.prompt === request.prompt);
    this.stop(this.sides[0]);
    this.run([this.side(request), ...others]);
  }

  keep() { // the first side beside a new one, which the form changes
    const [first, ...others] = this.sides;
    this.run([this.side(this.form.request()), first, ...others]);
  }

  branch(from, edit) {
    const { prompt, settings, edits } = from.request;
    const before = edits.filter(({ step }) => step <= edit.step);
    const others = this.sides.slice(0, MOST_SIDES - 1);
    this.run([...(others.includes(from) ? others : [this.sides[0], from]), this.side({ prompt, settings, edits: [...before, edit] })]);
  }

  // What a preset, a link or the tour asks for; step: of the first side, at which it is to be seen.
  start(requests, step = Infinity) {
    this.sides.forEach((side) => this.stop(side));
    this.form.fill(requests[0]);
    this.form.note();
    this.player?.why.release();
    this.run(requests.map((request) => this.side(request)), step);
  }

  side(request) {
    this.count += 1;
    return { id: this.count, request, trace: null, running: true, reused: 0, entropies: [] };
  }

  async run(sides, step = Infinity) {
    this.sides.filter((side) => !sides.includes(side)).forEach((side) => this.stop(side));
    this.sides = sides.slice(0, MOST_SIDES);
    this.step = step;
    this.draw();
    for (const side of this.sides.filter(({ asked, trace }) => !asked && !trace)) {
      const { prompt, settings, edits } = side.request;
      side.asked = true;
      try {
        await this.open(settings.style);
        const all = { ...DATA.recorded, ...settings };
        this.worker.postMessage({ do: "decode", id: side.id, model: settings.style, ...asText(prompt, settings.style), settings: all, edits });
      } catch (error) {
        this.heard({ id: side.id, error: error.message });
      }
    }
  }

  open(style) {
    this.models[style] ??= weightsOf(style).then((weights) => {
      this.worker.postMessage({ do: "open", name: style, weights, config: DATA.models[style], tokenizer: DATA.tokenizer }, [weights]);
    });
    return this.models[style];
  }

  stop(side) {
    if (side?.running) this.worker.postMessage({ do: "stop", id: side.id });
  }

  remove(side) {
    this.stop(side);
    this.sides = this.sides.filter((other) => other !== side);
    this.draw();
  }

  heard({ id, begun, step, texts, reused, entropies, trace, top, attention: seen, error }) {
    const side = this.sides.find((other) => other.id === id);
    if (!side) return;
    if (begun) side.trace = begun;
    if (step) {
      side.trace.steps.push(step);
      Object.assign(side.trace.vocabulary, texts);
      side.reused += reused ? step.forwards : 0;
      side.entropies.push(new Map(entropies));
    }
    if (trace) Object.assign(side, { trace, running: false });
    if (error) {
      byId("note").textContent = say("failed", { error });
      side.running = false;
      if (!side.trace) this.sides = this.sides.filter((other) => other !== side);
    }
    if (top) card.showTop(side, top);
    else if (seen) attention.show(side, seen);
    else this.later ??= requestAnimationFrame(() => this.draw());
  }

  // One player for all decodings: it keeps what the viewer chose and is fed again.
  draw() {
    this.later = null;
    const shown = this.sides.filter(({ trace }) => trace);
    byId("decode").textContent = say(this.running ? "stop" : "decode");
    if (!shown.length) return;
    const data = { clock: "forwards", traces: shown.map((side) => recordOf(side.trace, this.label(side), side.running)) };
    const { player } = this;
    const follows = !player || this.step !== null;
    this.feeding = true;
    if (player) player.update(data);
    else {
      const root = byId("player");
      this.player = new PagePlayer(root, data);
      for (const name of ["shown", "click", "keyup"]) root.addEventListener(name, () => this.viewed());
      byId("card-why").append(this.player.why.node);
      root.addEventListener("pointerdown", () => { this.step = null; }); // the viewer goes elsewhere
      root.addEventListener("keydown", () => { this.step = null; });
    }
    this.player.sides.forEach((view, i) => { view.of = shown[i]; });
    if (follows) this.goTo(this.step);
    this.feeding = false;
    drawBranches(this);
    this.viewed();
  }

  goTo(step) {
    const { record } = this.player.sides[0];
    if (step >= record.steps.length) this.player.go(Infinity);
    else this.player.seek(record[this.player.unit][step]);
  }

  viewed() {
    if (this.feeding) return; // it is told once, when all has been fed
    drawText(this);
    card.refresh();
    heatMap.refresh();
    attention.refresh();
    clearTimeout(this.linking);
    this.linking = setTimeout(() => {
      const step = this.player.sides[0].k;
      if (!this.running && this.sides.every(({ request }) => request)) history.replaceState(null, "", toLink(this.sides, step));
    }, 300);
  }

  // The token that is kept by a click or Enter, with its side: {view, side, position, k}, or null.
  get picked() {
    const picked = this.player?.why.picked;
    return picked ? { view: picked.side, side: picked.side.of, position: picked.position, k: picked.side.k } : null;
  }

  // A side's name: its style, and the settings in which the sides differ.
  label({ request, trace }) {
    if (!request) return `${DATA.styles[trace.style] ?? trace.style} (${say("opened")})`;
    const { settings, edits } = request;
    const settingsOf = this.sides.flatMap((side) => (side.request?.settings.style === settings.style ? [side.request.settings] : []));
    const other = Object.keys(settings).filter((name) => new Set(settingsOf.map((each) => each[name])).size > 1);
    const words = other.map((name) => `${name.replaceAll("_", " ")} ${settings[name] ?? "–"}`);
    return [DATA.styles[settings.style], ...words, ...(edits.length ? [say("branch")] : [])].join(", ");
  }
}

// LLaDA 1 fills the gaps of a text: the prompt stands in the first line, the text with gaps behind it.
function asText(prompt, style) {
  if (style !== "llada1" || !GAP.test(prompt)) return { text: prompt };
  const line = prompt.indexOf("\n");
  return { text: prompt.slice(0, Math.max(line, 0)), gaps: prompt.slice(line + 1) };
}

// The float16 file of a model: base64 in the page, which may still be loading, or a file beside it.
async function weightsOf(style) {
  if (DATA.files) return (await fetch(DATA.files[style])).arrayBuffer();
  if (!byId(`weights-${style}`)) await new Promise((done) => { document.addEventListener("DOMContentLoaded", done); });
  const text = atob(byId(`weights-${style}`).textContent);
  return Uint8Array.from(text, (sign) => sign.charCodeAt(0)).buffer;
}
