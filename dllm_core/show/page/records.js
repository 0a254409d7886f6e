// A Trace (the form of Python's Trace.to_json) as the record that the player draws; `record` in player/page.py in JavaScript.

// [steps + 1] Map of position → token: what each step, and the edits behind it, changed; the first: edits of the start.
function changesOf(trace) {
  const tokens = [...trace.initial];
  return [[], ...trace.steps.map((step) => step.commits)].map((commits, k) => {
    const changed = new Map(commits.map(({ position, token }) => [position, token]));
    changed.forEach((token, position) => { tokens[position] = token; });
    for (const edit of trace.edits ?? []) {
      if (edit.step !== k) continue;
      for (const [position, token] of changedByHand(trace, tokens, edit)) changed.set(position, (tokens[position] = token));
    }
    return changed;
  });
}

// [[position, token], …] that an edit changes; in AR all behind it is masked again.
function changedByHand({ style, mask_token_id: mask }, tokens, { position, action, token }) {
  const put = action === "take" || action === "write" ? token : mask;
  if (put === tokens[position] || (action === "forbid" && tokens[position] !== token)) return [];
  const behind = style === "ar" ? [...tokens.keys()].filter((at) => at > position && tokens[at] !== mask) : [];
  return [[position, put], ...behind.map((at) => [at, mask])];
}

function tokensAt(trace, k) {
  const tokens = [...trace.initial];
  for (const changed of changesOf(trace).slice(0, k + 1)) changed.forEach((token, position) => { tokens[position] = token; });
  return tokens;
}

const endsOf = (trace) => [trace.eos_token_id, ...(trace.other_ends ?? [])];
const isAnswer = (trace, position) => trace.initial[position] === trace.mask_token_id;

// Position of the first token that ends the answer, or the length of the sequence.
function endOf(trace, tokens) {
  const end = tokens.findIndex((token, position) => isAnswer(trace, position) && endsOf(trace).includes(token));
  return end < 0 ? tokens.length : end;
}

// The text after k steps: [[text, masked], …] of the answer up to its end, or of the filled text.
function runningText(trace, k) {
  const tokens = tokensAt(trace, k);
  const from = trace.prompt.length, to = trace.prompt.length ? endOf(trace, tokens) : tokens.length;
  return tokens.slice(from, to).map((token) => (token === trace.mask_token_id ? ["·", true] : [rawText(trace, token), false]));
}

const CONTROL = /^<\|.*\|>$/s;
const rawText = (trace, token) => (trace.vocabulary[token] ?? `#${token}`).replace(CONTROL, "");

function recordOf(trace, label, running) {
  const final = tokensAt(trace, trace.steps.length);
  const end = endOf(trace, final);
  const open = final.some((token, position) => position < end && token === trace.mask_token_id);
  const last = open ? end - 1 : end; // an end counts when no mask is before it
  const answered = final.filter((token, position) => isAnswer(trace, position) && position <= last && token !== trace.mask_token_id).length;
  const changes = changesOf(trace);
  const written = new Set();
  const seen = new Map();
  const forwards = trace.steps.reduce((reached, step) => [...reached, reached.at(-1) + step.forwards], [0]);
  const threshold = trace.settings.threshold;
  const numbered = (words) => Object.fromEntries(Object.entries(words).map(([name, text]) =>
    [name, text.replace("the threshold", threshold == null ? "the threshold" : `the threshold ${threshold}`)]));
  const table = DATA.reasons[trace.settings.remasking === "random" ? `${trace.style} random` : trace.style] ?? DATA.reasons.llada2;
  return {
    label,
    style: trace.style,
    running,
    reasons: numbered(table),
    waits: numbered(DATA.waits),
    threshold: trace.style === "llada2" ? threshold : null,
    mask: trace.mask_token_id,
    ends: endsOf(trace),
    initial: trace.initial,
    vocabulary: Object.fromEntries(Object.entries(trace.vocabulary).map(([token, text]) => [token, visible(text)])),
    names: Object.fromEntries(Object.entries(trace.vocabulary).filter(([token, text]) => text in DATA.special && Number(token) !== trace.mask_token_id)),
    forwards,
    seconds: [0, ...trace.steps.map((step) => step.seconds)],
    tokens: answered,
    written: changes.map((changed) => {
      for (const [position, token] of changed) {
        if (token === trace.mask_token_id) written.delete(position);
        else if (position <= last) written.add(position);
      }
      return written.size;
    }),
    finished: !running && ((end < final.length && !open) || !final.includes(trace.mask_token_id)),
    rate: plain(answered / Math.max(forwards.at(-1), 1)),
    settings: Object.fromEntries(Object.entries(trace.settings).filter(([, value]) => value !== null)),
    steps: trace.steps.map((step, index) => ({
      block: step.block,
      commits: step.commits.map((c) => [c.position, c.token, c.confidence, c.reason, c.alternatives]),
      masked: step.masked,
      confidence: step.confidence,
      entropy: step.entropy,
      drafts: changedDrafts(step, changes[index], seen),
      held: step.held_back,
    })),
    edits: (trace.edits ?? []).map((edit) => [edit.step, edit.position, edit.token, edit.action, edit.why]),
  };
}

// The guesses that differ from those seen before, as columns [differences of positions, tokens, thousandths]. before: what
// changed before this step: a guess where a token was masked again is a new one.
function changedDrafts({ draft }, before, seen) {
  before.forEach((token, position) => seen.delete(position));
  const columns = [[], [], []];
  let last = 0;
  for (const [position, token, confidence] of [...draft].sort(([a], [b]) => a - b)) {
    const thousandths = Math.round(1000 * confidence);
    if (seen.get(position) === `${token} ${thousandths}`) continue;
    seen.set(position, `${token} ${thousandths}`);
    [position - last, token, thousandths].forEach((value, column) => columns[column].push(value));
    last = position;
  }
  return columns;
}
