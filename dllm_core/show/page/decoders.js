// AR, LLaDA 1, LLaDA 2 and infilling as generators: the twins of dllm_core/samplers.py and decoding_state.py for one sequence,
// with edits made between steps. What is yielded has the fields of dllm_core/trace.py's DecodeStep.

const FULL = 2 ** 30; // the block of full attention
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
  if ((config.cap_start_ratio === null) !== (config.cap_end_ratio === null)) refuse("cap_end_ratio", "set with cap_start_ratio");
  if (config.style === "ar" && config.cfg_scale) refuse("cfg_scale", "0 for style 'ar' (guidance needs masks)");
  if (config.style !== "llada1") return config;
  const { max_new_tokens: answer, steps } = config, blocks = answer / (config.block_length ?? answer);
  if (blocks % 1) refuse("block_length", `a divisor of max_new_tokens=${answer} for LLaDA 1`);
  if (steps > answer) refuse("steps", `at most max_new_tokens=${answer} for LLaDA 1`);
  if (steps % blocks) refuse("steps", `a multiple of the ${blocks} blocks`);
  return config;
}

// `config` as it fills the masks in `tokens`: all are one block, one step each unless `steps` says fewer, no early stop.
function gapConfig(tokens, settings, mask) {
  const gaps = tokens.filter((token) => token === mask).length;
  if (!gaps) fail(`tokens: hold no mask (${mask}); mark each gap token with the mask id`);
  if (settings.steps > gaps) fail(`steps=${settings.steps}: must be at most the ${gaps} masked tokens`);
  const steps = settings.steps || gaps;
  return { ...DEFAULTS, ...settings, style: "llada1", max_new_tokens: gaps, block_length: null, steps, eos_early_stop: false };
}

class DecodingState {
  // engine: { model, mask, ends (token ids, eos first), labelShift, grid ("start" or "answer") }; initial: the sequence with its
  // masks; edits: [{ step, position, action, token, why }, …].
  constructor(engine, initial, promptLength, config, edits) {
    Object.assign(this, { engine, config, edits, prompt: promptLength, length: initial.length });
    const shifted = engine.grid === "answer" && config.style === "llada2", size = config.block_length ?? 32;
    this.size = { ar: 1, llada1: config.block_length ?? this.length - promptLength, llada2: size }[config.style];
    const offset = shifted ? (size - (promptLength % size)) % size : 0;
    this.grid = { size: config.style === "llada1" ? FULL : this.size, offset };
    const more = config.style === "llada2" ? (size - ((this.length + offset) % size)) % size : 0, end = this.length + more;
    const most = engine.model.positions;
    if (end > most) fail(`prompt and answer take ${end} positions: more than max_position_embeddings=${most}`);
    this.tokens = [...initial, ...Array(more).fill(engine.mask)]; // LLaDA 2 computes whole blocks
    this.condition = initial.map((token) => token !== engine.mask); // what guidance hides
    this.generator = new Generator(config.seed);
    this.never = new Map(); // position → the tokens that edits forbid there
    this.asked = []; // of each step the sequence that the model saw, up to the end of the block, and what a Trace leaves out
    edits.forEach((edit) => this.check(edit));
  }

  check({ step, position, action, token }) {
    const { mask, model } = this.engine, name = `edit at step ${step}, position ${position}`;
    const needsToken = action !== "mask", isToken = Number.isInteger(token) && token >= 0 && token < model.vocabulary;
    if (!["take", "write", "mask", "forbid"].includes(action)) fail(`${name}: unknown action ${action}`);
    if (!Number.isInteger(step) || step < 0) fail(`${name}: a step counts from 0`);
    if (!(position >= 0 && position < this.length)) fail(`${name}: the sequence has ${this.length} positions`);
    if (position < this.prompt) fail(`${name}: is in the prompt, which ends at ${this.prompt}`);
    if (needsToken && !isToken) fail(`${name}: token ${token} is not in the vocabulary of ${model.vocabulary}`);
    if ((action === "take" || action === "write") && token === mask) fail(`${name}: the mask is no token to ${action}`);
  }

  // Make the edits before step `index`; whether there were any.
  apply(index) {
    const now = this.edits.filter(({ step }) => step === index), { mask } = this.engine;
    for (const { position, action, token } of now) {
      if (action === "forbid") {
        this.never.set(position, [...(this.never.get(position) ?? []), token]);
        if (this.tokens[position] !== token) continue;
      }
      this.tokens[position] = action === "forbid" || action === "mask" ? mask : token;
      if (this.config.style === "ar") this.tokens.fill(mask, position + 1); // what stands behind followed from it
    }
    return now.length > 0;
  }

  isMasked(position) {
    return this.tokens[position] === this.engine.mask;
  }

  // The masked positions of [start, end).
  masks(start, end) {
    const positions = [];
    for (let position = start; position < end; position++) if (this.isMasked(position)) positions.push(position);
    return positions;
  }

  // Whether no mask is left, or a token that ends the answer stands in it with no mask before it.
  over() {
    const first = this.tokens.indexOf(this.engine.mask, this.prompt), end = first < 0 ? this.length : Math.min(first, this.length);
    if (end === this.length) return true;
    return this.config.eos_early_stop && this.tokens.slice(this.prompt, end).some((token) => this.engine.ends.includes(token));
  }

  // { rows: logits at `positions` of `seen`, the sequence up to the end of a block; saved: see Transformer.logits }.
  logits(seen, positions) {
    const { model, labelShift, mask } = this.engine, { config } = this, shift = labelShift || config.style === "ar" ? 1 : 0;
    const reads = positions.map((position) => Math.max(position - shift, 0)), useCache = config.use_cache && config.style !== "llada1";
    const known = model.logits(seen, reads, this.grid, useCache);
    if (!config.cfg_scale) return known;
    const other = model.logits(seen.map((token, i) => (this.condition[i] ? mask : token)), reads, this.grid, useCache);
    return { rows: known.rows.map((row, n) => guide(row, other.rows[n], config.cfg_scale)), saved: known.saved + other.saved };
  }

  // The `k` most probable tokens at `position` as step `index` saw them, from its recorded logits; forbidden ones come last.
  top(index, position, k) {
    const [row] = this.logits(this.asked[index].seen, [position]).rows;
    return topTokens(softmax(row, this.asked[index].never.get(position) ?? []).p, k);
  }
}

// AR: the next token is committed, whatever its confidence.
const decodeAR = (state) => ({
  plan: (first) => ({ start: first, end: first }),
  choose: () => ({ reasons: ["ar"], heldBack: 0 }),
});

// LLaDA 1: each step keeps its share of the block's most confident (or of random) predictions.
function decodeLLaDA1(state) {
  const { config, size } = state;
  const blocks = Math.floor(config.max_new_tokens / Math.min(size, config.max_new_tokens));
  const stepsOfBlock = Math.floor((config.steps ?? config.max_new_tokens) / blocks);
  let at = null, quota = []; // the block, and its steps' shares
  return {
    plan(first, edited) {
      const start = first - ((first - state.prompt) % size), count = state.masks(start, start + size).length;
      const steps = start === at ? Math.max(quota.length, 1) : stepsOfBlock;
      if (start !== at || edited) quota = tokensPerStep(count, Math.min(steps, count));
      at = start;
      return { start, end: state.length };
    },
    choose(positions, confidence) {
      let rankBy = confidence;
      if (config.remasking === "random") {
        const drawn = Array.from({ length: size }, () => state.generator.float());
        rankBy = positions.map((position) => drawn[position - at]);
      }
      const commits = commitTopK(rankBy, quota.shift());
      if (!quota.length) at = null;
      return commits;
    },
  };
}

// LLaDA 2: within a block all above the threshold, at least the schedule's share, at most the budget.
function decodeLLaDA2(state) {
  const { config, size, grid } = state, total = state.masks(0, state.tokens.length).length;
  const quota = [...tokensPerStep(size, config.steps ?? size), 0].map((share) => Math.max(share, config.minimal_topk));
  let at = null, refined = 0;
  return {
    plan(first) {
      const start = first - ((first + grid.offset) % size);
      refined = start === at ? refined + 1 : 0;
      at = start;
      return { start, end: start + size };
    },
    choose(positions, confidence) {
      const least = Math.min(quota[Math.min(refined, quota.length - 1)], positions.length);
      const remaining = state.masks(0, state.tokens.length).length;
      const most = commitBudget(remaining, total, config.cap_start_ratio, config.cap_end_ratio, config.max_decode_per_step);
      const commits = commitAboveThreshold(confidence, config.threshold, least, most);
      if (!commits.reasons.includes(null)) at = null; // the block is full
      return commits;
    },
  };
}

const DECODERS = { ar: decodeAR, llada1: decodeLLaDA1, llada2: decodeLLaDA2 };

// The steps of one decoding. config: of `completed` or `gapConfig`. Throws for an edit at a step that is not reached.
function* decode(state) {
  const { config, edits, prompt, length } = state, decoder = DECODERS[config.style](state);
  let seconds = 0; // of work: what the consumer does between two steps does not count
  for (let index = 0; ; index++) {
    const began = performance.now(), edited = state.apply(index);
    if (state.over()) {
      const late = edits.find(({ step }) => step > index);
      if (late) fail(`edit at step ${late.step}, position ${late.position}: the decoding is over after ${index} steps`);
      return;
    }
    // 1. one forward up to the end of the block that holds the first mask
    const { start, end } = decoder.plan(state.tokens.indexOf(state.engine.mask, prompt), edited), blockEnd = start + state.size;
    const positions = state.masks(start, blockEnd), seen = state.tokens.slice(0, end);
    const { rows, saved } = state.logits(seen, positions);
    // 2. predictions at its masks, of which the policy commits some
    const predictions = rows.map((row, n) => predict(row, config, state.never.get(positions[n]) ?? [], state.generator));
    const entropies = predictions.map(({ entropy }, n) => [positions[n], entropy]);
    state.asked.push({ seen, never: new Map(state.never), reused: saved > 0, entropies });
    const { reasons, heldBack } = decoder.choose(positions, predictions.map(({ confidence }) => confidence));
    const commits = [], draft = [];
    let count = 0, confidence = 0, entropy = 0;
    positions.forEach((position, n) => {
      const prediction = predictions[n], reason = reasons[n];
      if (reason) state.tokens[position] = prediction.token;
      if (position >= length) return; // completes LLaDA 2's last block, and is not recorded
      count += 1;
      confidence += prediction.confidence;
      entropy += prediction.entropy;
      const { token, confidence: p, alternatives } = prediction;
      if (reason) commits.push({ position, token, confidence: p, reason, alternatives });
      else if (config.draft) draft.push([position, token, p]);
    });
    if (Number.isNaN(confidence)) fail(`the model predicts nan at positions ${start} to ${end}`);
    seconds += saved + (performance.now() - began) / 1000; // a forward that was remembered counts as when it was run
    yield {
      index, row: 0, forwards: config.cfg_scale ? 2 : 1, seconds, block: [start, Math.min(blockEnd, length)], commits,
      masked: state.masks(prompt, length).length, confidence: confidence / count, entropy: entropy / count, draft,
      held_back: heldBack,
    };
  }
}
