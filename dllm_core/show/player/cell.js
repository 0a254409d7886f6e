// How a token is drawn: one width for all, letters that shrink to fit into it, and the looks of its states. Also what a side says
// of its step, and its line.

const EAST = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]/g;
const WIDTHS = { east: 2.6, west: 4.1 }; // em; the same at every step and for every token, so that nothing moves or tells what comes
const ROOM = 0.5; // em of a cell that frames need
const LEAST = 0.7, SMALL = 0.6; // letters down to LEAST of their size stand on one line, else small ones on two
const LEVELS = 8; // shades of confidence; the number is in the panel
const TAIL = 8; // so many tokens behind the end fold into one cell

const pen = document.createElement("canvas").getContext("2d");
pen.font = '700 100px system-ui, "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", sans-serif';
const lengths = new Map(); // text → em, bold

// The width of a record's cells, by the script of its prompt, else of all its tokens.
function widthOf(record) {
  const letters = (tokens) => tokens.map((token) => record.text(token)).join("").replace(/⟨.*?⟩|\P{L}/gu, "");
  const text = letters(record.initial.filter((token) => token !== record.mask)) || letters(Object.keys(record.vocabulary));
  return (text.match(EAST)?.length ?? 0) > 0.2 * text.length ? WIDTHS.east : WIDTHS.west;
}

// The share of their size at which the letters of a text fit, and whether on two lines.
function fitted(text, width) {
  if (!lengths.has(text)) lengths.set(text, pen.measureText(text).width / 100);
  const share = (width - ROOM) / lengths.get(text);
  return share >= 1 ? { share: 1 } : share >= LEAST ? { share } : { share: SMALL, two: true };
}

// Class names, text, small number, words for a screen reader, and the tint of the view by step.
function lookOf({ record, player, k }, what, inBlock, filling) {
  const behind = filling && what.state !== "prompt" ? " filling" : "";
  if (what.state === "masked") {
    const { draft } = what;
    if (!draft || player.reading === "hidden") return { kind: `masked${behind}`, text: "·", number: "", tint: "", words: "masked" };
    const remasked = player.reading === "remasked" && inBlock ? " remasked" : "";
    const moved = draft.step === k - 1 && draft.changed ? " changed" : "";
    const words = `masked, guess ${record.text(draft.token)}${moved ? ", changed in this step" : ""}${remasked ? ", masked again" : ""}`;
    return { kind: `masked guess${behind}${remasked}${moved}`, text: record.text(draft.token), number: "", tint: "", words };
  }
  const text = record.text(what.token);
  if (what.state === "prompt") return { kind: "prompt", text, number: "", tint: "", words: `${text}, prompt` };
  if (what.state === "hand") return { kind: `hand${behind}`, text, number: "", tint: "", words: `${text}, by hand after step ${what.edit.step + 1}` };
  const { step, confidence, reason } = what.commit;
  const byStep = player.color === "step";
  const level = byStep ? 0 : Math.round(LEVELS * confidence ** 2);
  const late = plain((100 * step) / Math.max(record.steps.length - 1, 1), 0);
  return {
    kind: `${what.state} c${level}${what.edited ? " edited" : ""}${behind}`,
    text,
    number: byStep ? String(step + 1) : "",
    tint: byStep && !behind ? `color-mix(in oklab, var(--late) ${late}%, var(--early))` : "",
    words: `${text}, step ${step + 1}, confidence ${plain(confidence)}, ${reason}${what.edited ? ", edited" : ""}`,
  };
}

// The filling behind the end after k steps that folds into one cell: [first, behind its last], or none.
function tailOf(record, k, end) {
  const fills = (position) => {
    const { state, token } = record.at(position, k);
    return ["now", "before"].includes(state) && (record.ends.includes(token) || record.text(token) === "⟨pad⟩");
  };
  let behind = end + 1;
  while (behind < record.initial.length && fills(behind)) behind += 1;
  const complete = behind >= record.initial.length || (k === record.steps.length && !record.running);
  return complete && behind - end - 1 >= TAIL ? [end + 1, behind] : [];
}

// Two lines: where the decoding is, and what this step did.
function summaryOf({ record, player, k }, guessed) {
  const over = k === record.steps.length && !record.running;
  const masked = record.masked(k);
  const where = [`step ${k}${record.running ? "" : ` of ${record.steps.length}`}`, `${record.forwards[k]} forward passes`,
    duration(record.seconds[k]), `${masked} masked`];
  if (!k) return [where, ["nothing filled yet"]];
  const { commits, held } = record.steps[k - 1];
  const counts = {};
  for (const commit of commits) counts[commit[3]] = (counts[commit[3]] || 0) + 1;
  const names = Object.entries(counts).map(([reason, count]) => `${count} (${reason})`).join(", ") || "none";
  const [first, last] = record.block(k);
  const what = player.reading === "remasked" && record.drafted
    ? [`${commits.length + guessed} guessed`, `${guessed} masked again`, `kept: ${names}`]
    : [`filled now: ${names}`];
  if (held) what.push(`${held} held back`);
  what.push(first === last ? `position ${first}` : `block ${first}–${last}`);
  if (over) what.push(!record.finished ? "stopped: no further step recorded" : masked ? "finished: masks stay only behind its end" : "finished");
  return [where, what];
}

// Line styles of the curves: a style's own, as in the figures, and others for its second and third side.
const LINES = {
  ar: ["", "24 3", "24 3 2 3"], llada1: ["7 4", "12 9", "4 9"], llada2: ["8 3 2 3", "2 3", "2 7"],
};

function lineOf({ style }, number) {
  const known = Object.hasOwn(LINES, style) ? style : "ar";
  return { stroke: `var(--${known})`, "stroke-dasharray": LINES[known][number], fill: "none" };
}

function dash({ line }) { // a sample of a side's line in the curves
  return drawing("svg", { class: "dllm-dash", viewBox: "0 0 36 12", "aria-hidden": "true" }, [
    drawing("path", { d: "M0 6H36", "stroke-width": 3, ...line }),
  ]);
}
