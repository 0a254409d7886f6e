// Which masked positions a step commits, and why: the twin of dllm_core/policies.py, for one row. Confidences are those
// of the block's masked positions, in order of position. All is float32, as in PyTorch, so that equals are equals.

const f32 = Math.fround;

// `count` tokens over `steps` steps, the remainder on the earliest (LLaDA, Algorithm 5).
function tokensPerStep(count, steps) {
  return Array.from({ length: steps }, (_, step) => Math.floor(count / steps) + (step < count % steps ? 1 : 0));
}

// 0 for the most confident, and so on; of equals the earlier is first.
function ranks(confidence) {
  const order = confidence.map((_, i) => i).sort((a, b) => confidence[b] - confidence[a] || a - b);
  const rank = [];
  order.forEach((i, place) => { rank[i] = place; });
  return rank;
}

// LLaDA 1: the `count` most confident. reasons: null where a position stays masked.
function commitTopK(confidence, count) {
  return { reasons: ranks(confidence).map((rank) => (rank < count ? "schedule" : null)), heldBack: 0 };
}

// LLaDA 2: all above the threshold, the `least` most confident where fewer are, `most` (null: no budget) in all.
function commitAboveThreshold(confidence, threshold, least, most) {
  const above = confidence.map((p) => threshold !== null && p > f32(threshold)), rank = ranks(confidence);
  const isEnough = above.filter(Boolean).length >= least;
  const wanted = above.map((isAbove, i) => (isEnough ? isAbove : rank[i] < least));
  const commit = wanted.map((isWanted, i) => isWanted && (most === null || rank[i] < most));
  const heldBack = above.filter((isAbove, i) => isAbove && !commit[i]).length;
  const below = threshold === null ? "schedule" : "fallback", reason = heldBack ? "budget" : "threshold";
  return { reasons: commit.map((isIn, i) => (isIn ? (above[i] ? reason : below) : null)), heldBack };
}

// The most commits of a step: a share of the masked positions, linear in progress, at most `limit`; null: no budget.
function commitBudget(masked, total, start, end, limit) {
  if (start === null && limit === null) return null;
  let most = masked;
  if (start !== null) {
    const progress = f32(1 - f32(masked / Math.max(total, 1)));
    most = Math.floor(f32(f32(f32(f32(end - start) * progress) + f32(start)) * masked));
  }
  return Math.max(limit === null ? most : Math.min(most, limit), 1);
}
