// AR, LLaDA 1, LLaDA 2 and infilling as a generator: the twin of dllm_core/samplers.py and decoding_state.py for one
// sequence, with edits made between steps. What is yielded has the fields of dllm_core/trace.py's DecodeStep.

const FULL = 2 ** 30; // the block of full attention
const ACTIONS = ["take", "write", "mask", "forbid"];
const DEFAULTS = {
  style: "llada2", max_new_tokens: 64, temperature: 0, top_k: 0, top_p: 1, cfg_scale: 0, seed: 0, steps: null,
  block_length: null, remasking: "low_confidence", threshold: 0.9, minimal_topk: 1, cap_start_ratio: null,
  cap_end_ratio: null, max_decode_per_step: null, eos_early_stop: true, use_cache: true, alternatives: 0, draft: false,
};

// DecodeConfig with its defaults. Throws an Error that names the setting.
function completed(settings) {
  const config = { ...DEFAULTS, ...settings }, unknown = Object.keys(config).find((name) => !(name in DEFAULTS));
  const refuse = (name, wanted) => fail(`${name}=${JSON.stringify(config[name])}: must be ${wanted}`);
  if (unknown) fail(`${unknown}: is no setting of a decoding`);
  if (!DECODERS[config.style]) refuse("style", Object.keys(DECODERS).join(", "));
  const isHalf = (config.cap_start_ratio === null) !== (config.cap_end_ratio === null);
  if (isHalf) refuse("cap_end_ratio", "set with cap_start_ratio, or neither");
  if (config.style === "ar" && config.cfg_scale) refuse("cfg_scale", "0 for style 'ar' (guidance needs masks)");
  if (config.style !== "llada1") return config;
  const { max_new_tokens: answer, steps } = config, blocks = answer / (config.block_length ?? answer);
  if (blocks % 1) refuse("block_length", `a divisor of max_new_tokens=${answer} for LLaDA 1`);
  if (steps > answer) refuse("steps", `at most max_new_tokens=${answer} for LLaDA 1`);
  if (steps % blocks) refuse("steps", `a multiple of the ${blocks} blocks`);
  return config;
}

// The settings as they fill the masks in `tokens`: one block, a step for each mask unless `steps` says fewer, no end.
function gapConfig(tokens, settings, mask) {
  const gaps = tokens.filter((token) => token === mask).length;
  if (!gaps) fail(`tokens: hold no mask (${mask}); mark each gap token with the mask id`);
  if (settings.steps > gaps) fail(`steps=${settings.steps}: must be at most the ${gaps} masked tokens`);
  const own = { style: "llada1", max_new_tokens: gaps, block_length: null, steps: settings.steps ?? gaps };
  return completed({ ...settings, ...own, eos_early_stop: false });
}

class DecodingState {
  // engine: { model, mask, ends (token ids, eos first), labelShift, grid ("start" or "answer") }; initial: the sequence
  // with its masks; config: of `completed` or `gapConfig`; edits: [{ step, position, action, token, why }, …].
  constructor(engine, initial, promptLength, config, edits = []) {
    Object.assign(this, { engine, config, initial, prompt: promptLength, length: initial.length });
    const { style, block_length: length } = config, isWhole = style === "llada2", { positions: most } = engine.model;
    const size = style === "ar" ? 1 : (length ?? (isWhole ? 32 : initial.length - promptLength));
    // LLaDA 2 counts its blocks from −offset, and computes whole ones; those of the others begin with the answer
    const offset = isWhole && engine.grid === "answer" ? modulo(-promptLength, size) : 0;
    const end = this.length + (isWhole ? modulo(-this.length - offset, size) : 0);
    if (end > most) fail(`prompt and answer take ${end} positions: more than max_position_embeddings=${most}`);
    Object.assign(this, { size, origin: isWhole ? -offset : promptLength });
    this.grid = { size: style === "llada1" ? FULL : size, offset };
    this.tokens = [...initial, ...Array(end - this.length).fill(engine.mask)];
    this.condition = initial.map((token) => token !== engine.mask); // what guidance hides
    this.total = this.masked;
    this.generator = new Generator(config.seed);
    this.never = new Map(); // position → the tokens that edits forbid there
    this.asked = []; // of each step { seen, never, reused, entropies }: what the model saw, and what a Trace leaves out
    this.edits = edits.map((edit) => ({ token: null, why: "", ...edit })).sort((a, b) => a.step - b.step);
    this.edits.forEach((edit) => this.check(edit));
    this.block = { start: null, refined: 0 }; // of the last step, and how many it has had in a row before
  }

  check(edit) {
    const { position, action, token } = edit, { mask, model: { vocabulary: words } } = this.engine;
    const wrong =
      (!ACTIONS.includes(action) && `action must be one of ${ACTIONS.join(", ")}`) ||
      (!(position in this.initial) && `position must be within the sequence of ${this.length}`) ||
      (this.initial[position] !== mask && "this position is of the prompt or was given, and cannot be changed") ||
      ((token === null) !== (action === "mask") && "take, write and forbid need a token, mask has none") ||
      (token !== null && !(token >= 0 && token < words) && `token must be within the vocabulary of ${words}`) ||
      (token === mask && action !== "forbid" && "the token is the mask; use the action mask");
    if (wrong) fail(`${named(edit)}: ${wrong}`);
  }

  // Make an edit: dllm_core/trace.py's `Edit.changes`.
  apply(edit) {
    const { position, action, token } = edit, { mask } = this.engine;
    if (action === "forbid") this.never.set(position, [...(this.never.get(position) ?? []), token]);
    const changed = action === "take" || action === "write" ? token : mask;
    if (changed === this.tokens[position] || (action === "forbid" && this.tokens[position] !== token)) return;
    if (this.config.style === "ar") {
      const isBehind = this.masks(0, position).length;
      if (isBehind) fail(`${named(edit)}: AR writes from left to right, and a position before this one is masked`);
      this.tokens.fill(mask, position); // what stands behind followed from it
    }
    this.tokens[position] = changed;
  }

  // The masked positions of [start, end).
  masks(start, end) {
    const positions = [];
    for (let i = start; i < end; i++) if (this.tokens[i] === this.engine.mask) positions.push(i);
    return positions;
  }

  get masked() { return this.masks(0, this.tokens.length).length; }

  // Whether no mask is left, or a token that ends the answer stands in it with no mask before it.
  get isOver() {
    const { eos_early_stop: stops } = this.config, first = this.masks(this.prompt, this.length)[0];
    const isEnd = (token) => this.engine.ends.includes(token);
    return first === undefined || (stops && this.tokens.slice(this.prompt, first).some(isEnd));
  }

  // Go on in the block of the first mask; its masked positions and the sequence up to where the model looks.
  plan() {
    const { start: last, refined } = this.block, first = this.masks(this.prompt, this.length)[0];
    const start = first - modulo(first - this.origin, this.size), end = start + this.size;
    this.block = { start, end, refined: start === last ? refined + 1 : 0 };
    const looked = { ar: first, llada1: this.length, llada2: end }[this.config.style];
    return { positions: this.masks(start, end), seen: this.tokens.slice(0, looked) };
  }

  // { rows: logits at `positions` of `seen`, saved: the seconds that remembered ones took when they were computed }.
  logits(seen, positions) {
    const { engine, config } = this, shift = engine.labelShift || config.style === "ar" ? 1 : 0;
    const reads = positions.map((position) => Math.max(position - shift, 0));
    const useCache = config.use_cache && config.style !== "llada1"; // under full attention every position may change
    const run = (tokens) => engine.model.logits(tokens, reads, this.grid, useCache);
    const known = run(seen);
    if (!config.cfg_scale) return known;
    const other = run(seen.map((token, i) => (this.condition[i] ? engine.mask : token)));
    const rows = known.rows.map((row, n) => guide(row, other.rows[n], config.cfg_scale));
    return { rows, saved: known.saved + other.saved };
  }

  // The prediction at a position of `sampling.js`; the mask and what edits forbid are never predicted.
  predict(row, position) {
    return predict(row, this.config, [this.engine.mask, ...(this.never.get(position) ?? [])], this.generator);
  }

  // The `k` most probable tokens at `position` as step `index` saw them, from its recorded logits.
  top(index, position, k) {
    const { seen, never } = this.asked[index], [row] = this.logits(seen, [position]).rows;
    return topTokens(softmax(row, [this.engine.mask, ...(never.get(position) ?? [])]).p, k);
  }
}

const modulo = (a, b) => ((a % b) + b) % b;
const named = ({ step, position, action, token }) =>
  `edits: ${action}${token === null ? "" : ` ${token}`} at step ${step}, position ${position}`;

// Which of the block's masks a step commits, by the style. confidence: of the predictions at `positions`.
const DECODERS = {
  // AR: the next token, whatever its confidence.
  ar: () => ({ reasons: ["ar"], heldBack: 0 }),

  // LLaDA 1: an even share for each of the block's remaining steps, the most confident or random ones.
  llada1({ config, size, block, generator }, positions, confidence) {
    const blocks = Math.floor(config.max_new_tokens / Math.min(size, config.max_new_tokens));
    const steps = Math.floor((config.steps ?? config.max_new_tokens) / blocks);
    const drawn = config.remasking === "random" && Array.from({ length: size }, () => generator.float());
    const rankBy = drawn ? positions.map((position) => drawn[position - block.start]) : confidence;
    return commitTopK(rankBy, Math.ceil(positions.length / Math.max(steps - block.refined, 1)));
  },

  // LLaDA 2: all above the threshold, at least the schedule's share, at most the budget.
  llada2({ config, size, block, total, masked }, positions, confidence) {
    const share = tokensPerStep(size, config.steps ?? size)[block.refined] ?? 0;
    const least = Math.min(Math.max(share, config.minimal_topk), positions.length);
    const { cap_start_ratio: start, cap_end_ratio: end, max_decode_per_step: limit } = config;
    return commitAboveThreshold(confidence, config.threshold, least, commitBudget(masked, total, start, end, limit));
  },
};

// The steps of one decoding. Throws for an edit at a step that is never reached.
function* decode(state) {
  const { config, edits, prompt, length } = state;
  let seconds = 0; // of work: what the consumer does between two steps does not count
  for (let index = 0; ; index++) {
    const began = performance.now();
    edits.filter(({ step }) => step === index).forEach((edit) => state.apply(edit));
    if (state.isOver) {
      const late = edits.find(({ step }) => step > index);
      if (late) fail(`${named(late)}: this step is never reached; the decoding has ${index}`);
      return;
    }
    // 1. one forward up to the end of the block, predictions at its masks, of which the policy commits some
    const { positions, seen } = state.plan(), { rows, saved } = state.logits(seen, positions), { start, end } = state.block;
    const predictions = positions.map((position, n) => ({ position, ...state.predict(rows[n], position) }));
    const confidences = predictions.map(({ confidence }) => confidence);
    const { reasons, heldBack } = DECODERS[config.style](state, positions, confidences);
    reasons.forEach((reason, n) => { if (reason) state.tokens[positions[n]] = predictions[n].token; });
    // 2. the record; positions that complete LLaDA 2's last block are not in it
    const asked = predictions.filter(({ position }) => position < length), commits = [], draft = [];
    asked.forEach(({ position, token, confidence, alternatives }, n) => {
      if (reasons[n]) commits.push({ position, token, confidence, reason: reasons[n], alternatives });
      else if (config.draft) draft.push([position, token, confidence]);
    });
    const mean = (name) => asked.reduce((sum, prediction) => sum + prediction[name], 0) / asked.length;
    if (Number.isNaN(mean("confidence"))) fail(`the model predicts nan at positions ${start} to ${end}`);
    const entropies = asked.map(({ position, entropy }) => [position, entropy]);
    state.asked.push({ seen, never: new Map(state.never), reused: saved > 0, entropies });
    seconds += saved + (performance.now() - began) / 1000; // a forward that was remembered counts as when it was run
    yield {
      index, row: 0, forwards: config.cfg_scale ? 2 : 1, seconds, block: [start, Math.min(end, length)], commits,
      masked: state.masks(prompt, length).length, confidence: mean("confidence"), entropy: mean("entropy"), draft,
      held_back: heldBack,
    };
  }
}
