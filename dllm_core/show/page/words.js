// The page's data, and its words in two languages. Elements of page.html name their words: data-say (text), data-name
// (accessible name and tooltip), data-title (tooltip), data-hint (placeholder).

const DATA = JSON.parse(document.getElementById("dllm-data").textContent);
const byId = (id) => document.getElementById(id);
const LANGUAGES = ["en", "zh"];
let language = 0;

function say(key, values = {}) {
  return inLanguage(DATA.words[key]).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

const inLanguage = (pair) => pair[language];

function translate() {
  document.documentElement.lang = LANGUAGES[language];
  document.title = say("title");
  const each = (name, act) => document.querySelectorAll(`[data-${name}]`).forEach((node) => act(node, say(node.dataset[name])));
  each("say", (node, text) => { node.textContent = text; });
  each("name", (node, text) => { node.ariaLabel = node.title = text; });
  each("title", (node, text) => { node.title = text; });
  each("hint", (node, text) => { node.placeholder = text; });
}

// A token's text with a sign for what cannot be seen; the same as `visible` in html.py.
function visible(text) {
  if (text in DATA.special) return DATA.special[text];
  const shown = text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/\r/g, "␍").replace(/^ +| +$/g, (blanks) => "␣".repeat(blanks.length));
  return shown.replace(/[\p{Cc}\p{Cf}]/gu, (sign) => `⟨U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`) || "∅";
}
