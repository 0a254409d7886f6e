// This project's tokenizer.json: a pattern that splits, BPE over characters, control tokens; and its chat template.

const AFFIXES = ["continuing_subword_prefix", "end_of_word_suffix"];
const UNREAD = [...AFFIXES, "dropout", "byte_fallback", "fuse_unk", "ignore_merges"]; // of a BPE

class Tokenizer {
  // file: the parsed tokenizer.json. Throws an Error that names what the page does not read.
  constructor({ model, pre_tokenizer: split, decoder, normalizer, added_tokens: added }) {
    const refuse = (what) => fail(`tokenizer.json: ${what} is not read by the page`);
    if (model.type !== "BPE") refuse(`model ${model.type}`);
    for (const name of UNREAD) if (model[name]) refuse(`model.${name}`);
    if (normalizer) refuse(`normalizer ${normalizer.type}`);
    if (decoder?.type !== "Fuse") refuse(`decoder ${decoder?.type}`);
    const isRead = !split || (split.behavior === "Isolated" && !split.invert && split.pattern?.Regex);
    if (!isRead) refuse(`pre_tokenizer ${split.type}`);
    this.pattern = split && new RegExp(split.pattern.Regex, "gu");
    this.ids = new Map(Object.entries(model.vocab));
    this.unknown = this.ids.get(model.unk_token);
    this.texts = [];
    for (const [text, id] of this.ids) this.texts[id] = text;
    for (const { id, content } of added) [this.texts[id]] = [content, this.ids.set(content, id)];
    this.special = new Set(added.filter((token) => token.special).map((token) => token.id));
    const pairs = model.merges.map((pair) => (typeof pair === "string" ? pair.split(" ") : pair));
    const merge = ([a, b], rank) => [this.pair(this.ids.get(a), this.ids.get(b)), { rank, id: this.ids.get(a + b) }];
    this.merges = new Map(pairs.map(merge));
  }

  pair(a, b) {
    return a * 2 ** 26 + b;
  }

  // Token ids of a text that a person wrote: control tokens in it are plain text. name: of the text, for errors.
  encode(text, name = "prompt") {
    const half = /\p{Surrogate}/u.exec(text);
    if (half) {
      const code = half[0].charCodeAt(0).toString(16);
      fail(`${name}: '\\u${code}' is half a surrogate pair, which is no character: remove it`);
    }
    const ids = [];
    let end = 0;
    for (const { index, 0: word } of this.pattern ? text.matchAll(this.pattern) : []) {
      for (const piece of [text.slice(end, index), word]) this.merged(piece).forEach((id) => ids.push(id));
      end = index + word.length;
    }
    return ids.concat(this.merged(text.slice(end)));
  }

  // The ids of a piece: its characters, of which the pair that was learned first is merged everywhere, again and again.
  merged(piece) {
    let ids = Array.from(piece, (character) => this.ids.get(character) ?? this.unknown);
    for (;;) {
      let best = null;
      for (let i = 0; i + 1 < ids.length; i++) {
        const merge = this.merges.get(this.pair(ids[i], ids[i + 1]));
        if (merge && !(merge.rank >= best?.rank)) best = { ...merge, pair: this.pair(ids[i], ids[i + 1]) };
      }
      if (!best) return ids;
      const shorter = [];
      for (let i = 0; i < ids.length; i++) {
        const isPair = i + 1 < ids.length && this.pair(ids[i], ids[i + 1]) === best.pair;
        shorter.push(isPair ? best.id : ids[i]);
        i += isPair;
      }
      ids = shorter;
    }
  }

  // The characters of a text that have no token, each once.
  unknownCharacters(text) {
    return [...new Set(Array.from(text).filter((character) => this.encode(character)[0] === this.unknown))];
  }

  decode(ids, skipSpecial = false) {
    return ids.filter((id) => !(skipSpecial && this.special.has(id))).map((id) => this.texts[id] ?? "").join("");
  }

  // The ids of a conversation, [{ role, content }, …], up to where the answer begins. Control tokens within a content
  // are plain text.
  chat(messages) {
    const bos = this.ids.get("<|im_start|>"), eos = this.ids.get("<|im_end|>"), ids = [];
    let after = "";
    for (const { role, content } of messages) {
      ids.push(...this.encode(after), bos, ...this.encode(`${role}\n${content}`), eos);
      after = "\n";
    }
    return [...ids, ...this.encode(after), bos, ...this.encode("assistant\n")];
  }
}
