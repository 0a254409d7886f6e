// A Trace (the form of Python's Trace.to_json) as the record that the player draws; `record` in player/page.py in JavaScript.

// The sequence after k steps: the start, the commits of the first k steps, and the edits up to step k, in time order.
function tokensAt(trace, k) {
  const tokens = [...trace.initial];
  for (let step = 0; step <= k; step += 1) {
    for (const edit of trace.edits ?? []) if (edit.step === step) applyEdit(trace, tokens, edit);
    if (step < k) for (const { position, token } of trace.steps[step].commits) tokens[position] = token;
  }
  return tokens;
}

function applyEdit(trace, tokens, { position, action, token }) {
  const mask = trace.mask_token_id;
  if (action === "take" || action === "write") tokens[position] = token;
  else if (action === "mask" || tokens[position] === token) tokens[position] = mask;
  else return;
  if (trace.style === "ar") tokens.fill(mask, position + 1);
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
  const last = trace.steps.at(-1);
  const answered = final.filter((token, position) => isAnswer(trace, position) && position <= end && token !== trace.mask_token_id).length;
  const open = final.some((token, position) => position < end && token === trace.mask_token_id);
  const written = new Set();
  const seen = new Map();
  const forwards = trace.steps.reduce((reached, step) => [...reached, reached.at(-1) + step.forwards], [0]);
  const threshold = trace.settings.threshold;
  const numbered = (words) => Object.fromEntries(Object.entries(words).map(([name, text]) =>
    [name, text.replace("the threshold", threshold == null ? "the threshold" : `the threshold ${threshold}`)]));
  const table = DATA.reasons[trace.settings.remasking === "random" ? `${trace.style} random` : trace.style] ?? DATA.reasons.llada2;
  return {
    label,
    running,
    reasons: numbered(table),
    waits: numbered(DATA.waits),
    threshold: trace.style === "llada2" ? threshold : null,
    mask: trace.mask_token_id,
    ends: endsOf(trace),
    initial: trace.initial,
    vocabulary: Object.fromEntries(Object.entries(trace.vocabulary).map(([token, text]) => [token, visible(text)])),
    forwards,
    seconds: [0, ...trace.steps.map((step) => step.seconds)],
    tokens: answered,
    written: [0, ...trace.steps.map((step) => {
      for (const { position } of step.commits) if (position <= end) written.add(position);
      return written.size;
    })],
    finished: !running && Boolean(last) && (!last.masked || (end < final.length && !open)),
    rate: plain(answered / Math.max(forwards.at(-1), 1)),
    settings: Object.fromEntries(Object.entries(trace.settings).filter(([, value]) => value !== null)),
    steps: trace.steps.map((step) => ({
      block: step.block,
      commits: step.commits.map((c) => [c.position, c.token, c.confidence, c.reason, c.alternatives]),
      masked: step.masked,
      confidence: step.confidence,
      entropy: step.entropy,
      drafts: changedDrafts(step, seen),
      held: step.held_back,
    })),
    edits: (trace.edits ?? []).map((edit) => [edit.step, edit.position, edit.token, edit.action, edit.why]),
  };
}

// The guesses that differ from those seen before, as columns [differences of positions, tokens, thousandths].
function changedDrafts({ draft }, seen) {
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
