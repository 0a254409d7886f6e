// The controls: playback, choices of view, keys in words, and the legend. All of them act through the player.

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const SIZES = [["1", "100 %"], ["1.4", "140 %"], ["1.9", "190 %"]];
const KEYS = [
  ["Space", "play, pause"], ["← →  , .", "one step back, on"], ["PgUp PgDn", "ten steps"], ["Home End", "start, end"],
  ["C", "color"], ["G", "reading of the guesses"], ["T", "clock"], ["S", "speed"], ["Z", "size"], ["F", "full screen"],
  ["Tab", "to controls and tokens; there ← → ↑ ↓ walk"], ["Enter Esc", "keep a token, let it go"],
];

class Bar {
  constructor(player) {
    this.player = player;
    const button = (text, name, act) => make("button", { type: "button", text, "aria-label": name, title: name, on: { click: act } });
    this.playButton = button("▶", "play", () => player.toggle());
    this.slider = make("input", {
      type: "range", min: 0, step: 1, "aria-label": "position on the clock", on: { input: () => player.go(Number(this.slider.value)) },
    });
    this.clock = make("span", { class: "dllm-clock" });
    this.choices = {
      t: this.choice("clock", [["forwards", "forward passes"], ["seconds", "seconds"]], player.unit, (value) => player.setClock(value)),
      s: this.choice("speed", SPEEDS.map((value) => [String(value), `${value} ×`]), "1", (value) => player.setSpeed(Number(value))),
      c: this.choice("color", [["confidence", "confidence"], ["step", "step filled"]], player.color, (value) => player.setView("color", value)),
      g: this.choice("guesses", [["kept", "what was kept"], ["remasked", "what was remasked"], ["hidden", "hidden"]], player.reading,
        (value) => player.setView("reading", value)),
      z: this.choice("size", SIZES, "1", (value) => player.root.style.setProperty("--size", value)),
    };
    const full = document.fullscreenEnabled ? [button("full screen", "full screen", () => this.fullScreen())] : [];
    this.node = make("div", { class: "dllm-bar", role: "toolbar", "aria-label": "playback" }, [
      button("|◀", "to the start", () => player.go(0)),
      button("◁", "one step back", () => player.go(player.index - 1)),
      this.playButton,
      button("▷", "one step on", () => player.go(player.index + 1)),
      button("▶|", "to the end", () => player.go(Infinity)),
      this.slider,
      this.clock,
      make("div", { class: "dllm-choices" }, [...Object.values(this.choices), ...full]),
    ]);
    this.keys = make("details", { class: "dllm-small dllm-keys" }, [make("summary", { text: "keys" }),
      make("dl", {}, KEYS.flatMap(([key, words]) => [make("dt", { text: key }), make("dd", { text: words })]))]);
    this.samples = make("div", { class: "dllm-legend" });
    this.legend = make("details", { class: "dllm-small" }, [make("summary", { text: "legend" }), this.samples]);
  }

  choice(name, values, chosen, act) {
    const options = values.map(([value, text]) => make("option", { value, text, ...(value === chosen ? { selected: "" } : {}) }));
    const select = make("select", { "aria-label": name, on: { change: (event) => act(event.target.value) } }, options);
    return make("label", {}, [`${name} `, select]);
  }

  fed() { // guesses can be read where some were recorded
    this.choices.g.hidden = !this.player.sides.some(({ record }) => record.drafted);
  }

  cycle(key) {
    const select = this.choices[key].querySelector("select");
    if (this.choices[key].hidden) return;
    select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
    select.dispatchEvent(new Event("change"));
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.player.root.requestFullscreen?.().catch(() => {}); // a page may forbid it
  }

  show(index, words, aside) {
    this.slider.value = index;
    this.clock.textContent = words + aside;
    this.slider.setAttribute("aria-valuetext", words);
  }

  setPlaying(playing) {
    this.playButton.textContent = playing ? "❚❚" : "▶";
    this.playButton.setAttribute("aria-label", playing ? "pause" : "play");
    this.playButton.title = playing ? "pause" : "play";
  }

  // The meaning of the cells' looks in the current view.
  drawLegend() {
    const { sides, color, reading } = this.player;
    const any = (test) => sides.some(({ record }) => test(record));
    const drafted = any((record) => record.drafted) && reading !== "hidden";
    const sample = (kind, words, text = "a") => make("span", {}, [make("span", { class: `dllm-cell ${kind}`, text, "aria-hidden": "true" }), words]);
    const range = make("span", { class: color === "step" ? "dllm-range time" : "dllm-range", "aria-hidden": "true" });
    this.samples.replaceChildren(
      ...(any((record) => record.initial.some((token) => token !== record.mask)) ? [sample("prompt", "prompt")] : []),
      sample("masked", "masked", "·"),
      ...(drafted ? [reading === "remasked" ? sample("masked guess remasked", "guessed, then masked again") : sample("masked guess", "masked, with the model's guess"),
        sample(`masked guess changed${reading === "remasked" ? " remasked" : ""}`, "guess changed in this step")] : []),
      sample("now c6", reading === "remasked" ? "kept in this step" : "filled in this step"),
      make("span", {}, [sample("before c6", "filled before: "), ...(color === "step" ? ["step 1 ", range, " last step"] : ["unsure ", range, " sure"])]),
      ...(any((record) => record.edits?.length) ? [sample("hand", "by hand")] : []),
      ...(any((record) => record.edited) ? [sample("before c6 edited", "edited")] : []),
      ...(any((record) => record.endings.length) ? [sample("before filling", "after the end: not part of the answer")] : []),
      sample("inblock last", "current block"),
    );
  }
}
