// From logits to a token with its confidence: the twin of dllm_core/sampling.py, for one position.

const LOWEST = -1e30; // a logit for "never"

// Classifier-free guidance: un + (s + 1)(cond − un), in float32 as in PyTorch.
function guide(conditional, unconditional, scale) {
  const factor = f32(scale + 1);
  return conditional.map((logit, i) => unconditional[i] + f32(factor * f32(logit - unconditional[i])));
}

// Probabilities of float32 logits, the most probable token and logsumexp. never: tokens of probability 0.
function softmax(row, never) {
  const logits = row.map((logit) => Math.max(logit, LOWEST));
  for (const token of never) logits[token] = LOWEST;
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  const p = new Float64Array(logits.length), most = logits[best];
  let sum = 0;
  for (let i = 0; i < p.length; i++) sum += p[i] = Math.exp(logits[i] - most);
  const total = f32(sum); // so that confidences near 1 are equal where PyTorch's are
  for (let i = 0; i < p.length; i++) p[i] /= total;
  return { logits, p, best, logSum: most + Math.log(sum) };
}

// The k most probable tokens as [token, probability], most probable first.
function topTokens(p, k) {
  const top = [];
  for (let token = 0; token < p.length; token++) {
    if (top.length === k && p[token] <= top[k - 1][1]) continue;
    let place = top.length;
    while (place && top[place - 1][1] < p[token]) place--;
    top.splice(place, 0, [token, p[token]]);
    top.length = Math.min(top.length, k);
  }
  return top;
}

// The token at one position, its probability before temperature and filters, the entropy (nats) and the runners-up.
function predict(row, config, never, generator) {
  const { logits, p, best, logSum } = softmax(row, never);
  const token = config.temperature ? sample(logits, config, generator) : best;
  let entropy = logSum;
  for (let i = 0; i < p.length; i++) entropy -= p[i] * logits[i];
  const { alternatives: k } = config;
  const alternatives = k ? topTokens(p, k + 1).filter(([other]) => other !== token).slice(0, k) : [];
  return { token, confidence: f32(p[token]), entropy, alternatives };
}

// Gumbel-max in float64: argmax of logit / temperature + noise; a number is drawn for every token, as PyTorch does.
function sample(logits, config, generator) {
  const scores = filterLogits(logits, config.top_k, config.top_p, config.temperature);
  let token = 0, most = -Infinity;
  for (let i = 0; i < scores.length; i++) {
    const gumbel = -Math.log(-Math.log(Math.max(generator.double(), 1e-300)));
    const score = scores[i] / config.temperature + gumbel;
    if (score > most) [token, most] = [i, score];
  }
  return token;
}

// The logits with all but the `topK` most probable, and all beyond the `topP` nucleus, at −∞.
function filterLogits(logits, topK, topP, temperature) {
  let kept = logits;
  if (topK) {
    const least = kept.slice().sort().at(-Math.min(topK, kept.length));
    kept = kept.map((logit) => (logit < least ? -Infinity : logit));
  }
  if (topP < 1) {
    const order = Array.from(kept.keys()).sort((a, b) => kept[b] - kept[a]);
    const weights = order.map((i) => Math.exp((kept[i] - kept[order[0]]) / temperature));
    const sum = weights.reduce((a, b) => a + b, 0);
    kept = kept.slice();
    let before = 0;
    order.forEach((i, place) => {
      if (before / sum >= topP) kept[i] = -Infinity;
      before += weights[place];
    });
  }
  return kept;
}
