// The request: prompt, style and settings as the form holds them, and as a link carries them.

const GAP = /(_{2,}|＿{2,})/;

class Form {
  // moved(name): a control has another value.
  constructor(moved) {
    this.style = "llada2";
    byId("styles").append(...Object.entries(DATA.styles).map(([value, text]) => {
      const choose = () => {
        this.choose(value);
        moved("style");
      };
      return make("label", {}, [make("input", { type: "radio", name: "style", value, on: { change: choose } }), make("span", { text })]);
    }));
    this.labels = {};
    this.inputs = {};
    for (const [name, { label, help, min, max, step }] of Object.entries(DATA.controls)) {
      const output = make("output");
      const show = () => { output.value = this.inputs[name].value; };
      const on = { input: () => { show(); moved(name); }, change: show };
      const kind = step < 1 ? "range" : "number";
      this.inputs[name] = make("input", { type: kind, id: name, min, max, step, on, title: help });
      this.labels[name] = make("span", { text: label });
      const parts = [this.labels[name], this.inputs[name], ...(kind === "range" ? [output] : [])];
      byId(DATA.main.includes(name) ? "main-settings" : "more-settings").append(make("label", { class: kind }, parts));
    }
    byId("prompt").addEventListener("input", () => this.note());
    this.choose("llada2");
  }

  translate() {
    for (const [name, label] of Object.entries(this.labels)) {
      const { label: english } = DATA.controls[name];
      label.textContent = language ? DATA.chinese[name] : DATA.main.includes(name) ? english.replace(/ \(.*/, "") : english;
    }
    this.note();
  }

  // Another style has its own settings, and starts from their defaults.
  choose(style, settings = {}) {
    this.style = style;
    byId("styles").querySelector(`[value="${style}"]`).checked = true;
    const used = DATA.used[style];
    for (const [name, input] of Object.entries(this.inputs)) {
      input.value = settings[name] ?? DATA.defaults[style][name] ?? 0;
      input.dispatchEvent(new Event("change"));
      input.parentNode.hidden = !used.includes(name);
    }
  }

  // What to decode: {style, prompt, settings, edits}; 0 is None where a setting can be off.
  request() {
    const settings = { style: this.style };
    for (const name of DATA.used[this.style]) {
      const value = Number(this.inputs[name].value);
      settings[name] = value === 0 && DATA.offAtZero.includes(name) ? null : value;
    }
    return { prompt: byId("prompt").value, settings, edits: [] };
  }

  fill({ prompt, settings }) {
    byId("prompt").value = prompt;
    this.choose(settings.style, settings);
  }

  // What a person should know of the prompt before it is decoded.
  note() {
    const text = byId("prompt").value;
    const known = (sign) => DATA.characters.has(sign);
    const unknown = [...new Set(text)].filter((sign) => !known(sign) && !/\s/.test(sign));
    const count = [...text].length + Number(this.inputs.max_new_tokens.value) + 10; // about a character a token
    byId("note").textContent = !text.trim() ? say("empty")
      : unknown.length ? say("unknown", { count: unknown.length, text: unknown.slice(0, 12).map(visible).join(" ") })
        : count > DATA.trained && text.length > 60 ? say("long", { count, trained: DATA.trained }) : "";
  }
}

// The state in the link: prompt, language, step, and for each side the settings that differ from the defaults and its edits.
function toLink(sides, step) {
  const link = new URLSearchParams({ prompt: sides[0].request.prompt, lang: LANGUAGES[language], step });
  for (const { request: { settings, edits } } of sides) {
    const defaults = DATA.defaults[settings.style];
    const other = Object.entries(settings).filter(([name, value]) => name === "style" || (value ?? 0) !== (defaults[name] ?? 0));
    link.append("side", JSON.stringify({ ...Object.fromEntries(other), ...(edits.length ? { edits } : {}) }));
  }
  return `#${link}`;
}

// {step, requests} of a link, or null where it carries none. A side that cannot be read is left out.
function fromLink(hash) {
  const link = new URLSearchParams(hash.slice(1));
  if (LANGUAGES.includes(link.get("lang"))) language = LANGUAGES.indexOf(link.get("lang"));
  const sides = link.getAll("side").slice(0, 3).flatMap((text) => {
    try {
      const side = JSON.parse(text);
      return side?.style in DATA.styles ? [side] : [];
    } catch {
      return [];
    }
  });
  return sides.length ? { step: Number(link.get("step")) || 0, requests: sides.map((side) => asRequest(link.get("prompt") ?? "", side)) } : null;
}

// The whole request of a prompt and the settings that a preset or a link names.
function asRequest(prompt, { edits = [], ...given }) {
  const settings = { style: given.style };
  for (const name of DATA.used[given.style]) {
    const value = Number(given[name] ?? DATA.defaults[given.style][name] ?? 0);
    settings[name] = value === 0 && DATA.offAtZero.includes(name) ? null : value;
  }
  return { prompt, settings, edits };
}
