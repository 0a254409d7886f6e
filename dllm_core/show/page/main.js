// The page begins: words, form, views, tour, and the first decoding, of the link or of the first preset.

DATA.tokens = Object.entries(DATA.tokenizer.model.vocab).reduce((texts, [text, token]) => Object.assign(texts, { [token]: text }), []);
DATA.characters = new Set(Object.keys(DATA.tokenizer.model.vocab).flatMap((text) => [...text]));
const linked = fromLink(location.hash);
const studio = new Studio();
const card = new Card(studio);
const heatMap = new HeatMap(studio);
const attention = new Attention(studio);

const ofPreset = ({ prompt, sides }) => sides.map((side) => asRequest(inLanguage(prompt), side));
const presets = DATA.presets.map((preset) => make("button", { type: "button", on: { click: () => studio.start(ofPreset(preset)) } }));
byId("presets").append(...presets);

function show(view) {
  byId("views").querySelector(`[value="${view}"]`).checked = true;
  for (const name of ["token", "map", "attention"]) byId(`view-${name}`).hidden = name !== view;
  if (studio.player) studio.viewed();
}

byId("views").addEventListener("change", ({ target }) => show(target.value));

// A stop of the tour: its words, its preset at its step, its view and, once decoded, its token.
let stop = -1;

function visit(number) {
  stop = Math.min(number, DATA.tour.length - 1);
  byId("tour").hidden = stop < 0;
  if (stop < 0) return byId("tour-begin").focus();
  const { preset, step, view } = DATA.tour[stop];
  tellTour();
  studio.start(ofPreset(DATA.presets[preset]), step);
  show(view);
}

function tellTour() {
  if (stop < 0) return;
  const { title, text } = DATA.tour[stop];
  byId("tour-title").textContent = inLanguage(title);
  byId("tour-text").textContent = inLanguage(text);
  byId("tour-stop").textContent = say("tour_stop", { n: stop + 1, all: DATA.tour.length });
  byId("tour-back").disabled = stop === 0;
  byId("tour-next").disabled = stop === DATA.tour.length - 1;
}

for (const [id, number] of Object.entries({ begin: () => 0, back: () => stop - 1, next: () => stop + 1, close: () => -1 })) {
  byId(`tour-${id}`).addEventListener("click", () => visit(number()));
}

function speak(number) {
  language = number;
  translate();
  presets.forEach((button, i) => { button.textContent = inLanguage(DATA.presets[i].name); });
  studio.form.translate();
  tellTour();
  if (studio.player) studio.draw();
}

byId("language").addEventListener("click", () => speak(1 - language));
listenToSaving(studio);
speak(language);
studio.start(linked?.requests ?? ofPreset(DATA.presets[0]), linked?.step);
