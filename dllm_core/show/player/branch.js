// Branches: what a person changed by hand, and where two traces of one start first differ.

// What each edit did to `record`, by position, as {step, token, action, why}: the mask as the token where it masked again.
// step: of the commit that it stands behind, so −1 for an edit of the start.
function editsByPosition(record) {
  record.editsAt = record.initial.map(() => []);
  record.masksByHand = {}; // after k steps → masks that the edits made there added
  const put = (step, position, token, action, why) => {
    const stood = record.at(position, step).token;
    if (stood === token) return false;
    record.editsAt[position].push({ step: step - 1, token, action, why });
    record.masksByHand[step] = (record.masksByHand[step] ?? 0) + (token === record.mask) - (stood === record.mask);
    return true;
  };
  for (const [step, position, token, action, why] of record.edits ?? []) {
    if (action === "forbid" && record.at(position, step).token !== token) continue;
    const changed = put(step, position, action === "mask" || action === "forbid" ? record.mask : token, action, why);
    for (let behind = position + 1; changed && record.style === "ar" && behind < record.initial.length; behind++) {
      put(step, behind, record.mask, "behind", "");
    }
  }
}

// The lines of the panel for a token that a person put there.
function byHand(why, record, { token, edit }, where) {
  return [
    [why.token(record, token), ` ${where}, token ${token}: by hand, ${edit.step < 0 ? "at the start" : `after step ${edit.step + 1}`}. `,
      why.jump(edit.step + 1, record)],
    [make("strong", { text: "Why: " }), `${record.reasons[edit.action]}${edit.why ? `: ${edit.why}` : ""}.`],
  ];
}

// Said behind "masked": that a person did it, and what is forbidden there after k steps.
function maskedByHand(record, { edit }, position, k) {
  const forbidden = (record.edits ?? []).filter(([step, at, , action]) => action === "forbid" && at === position && step <= k);
  return [
    ...(edit ? [`By hand after step ${edit.step + 1}: ${record.reasons[edit.action]}${edit.why ? `: ${edit.why}` : ""}. `] : []),
    ...(forbidden.length ? [`Forbidden here: ${forbidden.map(([, , token]) => record.text(token)).join(", ")}. `] : []),
  ];
}

// {step, positions} of the first difference of a branch and another record of one start, or null. A finished one stays as
// it is.
function firstDifference(first, second) {
  const isBranch = first.edits?.length || second.edits?.length;
  if (!isBranch || String(first.initial) !== String(second.initial)) return null;
  for (let k = 0; k <= Math.max(first.steps.length, second.steps.length); k++) {
    const differ = (_, position) => first.at(position, k).token !== second.at(position, k).token;
    const positions = [...first.initial.keys()].filter((position) => differ(null, position));
    if (positions.length) return { step: k, positions };
  }
  return null;
}

// The line of a side that says where it first differs from the first side, with a jump there; null for the first side.
function differenceLine(side) {
  const { record, player } = side;
  const [first] = player.sides ?? [];
  side.difference = first && first.record !== record ? firstDifference(first.record, record) : null;
  if (!side.difference) return null;
  const { step, positions } = side.difference;
  const [at] = positions;
  const words = [first.record, record].map((one) => (one.at(at, step).state === "masked" ? "░" : one.text(one.at(at, step).token)));
  return make("div", { class: "dllm-small dllm-differs" }, [
    `first difference from ${first.record.label}: ${step ? `after step ${step}` : "at the start"}, position ${at}, `,
    make("bdi", { text: words[1] }), " for ", make("bdi", { text: words[0] }), " ",
    player.why.jump(step, record),
  ]);
}

// A button that asks for a change of a token by hand, where the player stands in a panel that can make one.
function changeLine(why, side, position) {
  const { root, sides } = why.player;
  if (!root.dataset.editable || side.record.initial[position] !== side.record.mask) return [];
  const detail = [sides.indexOf(side), side.k, position];
  const ask = () => root.dispatchEvent(new CustomEvent("dllm-change", { bubbles: true, detail }));
  const text = `change it by hand ${side.k ? `after step ${side.k}` : "at the start"}`;
  return [[make("button", { type: "button", class: "dllm-jump", text, on: { click: ask } })]];
}
