// Widths of cells. A width must not tell what will stand in a masked cell, nor change when it is filled: all decoded cells
// have one width, and a text that is too long for it is written smaller. Widths are in em of a cell's text.

const NARROW = 2.75; // two Chinese characters
const WIDE = 5.6; // a word
const FRAME = 0.75; // of it, for the frame and a little air
const SMALLEST = 0.6; // of the size of the text; what is longer still is cut, and whole under the mouse
const CELL_FONT = 'system-ui, "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", sans-serif'; // as in player.css

const widths = new Map(); // text → em
function widthOf(text) {
  if (!widths.has(text)) {
    widthOf.pen ??= make("canvas").getContext("2d");
    widthOf.pen.font = `700 100px ${CELL_FONT}`;
    widths.set(text, widthOf.pen.measureText(text).width / 100);
  }
  return widths.get(text);
}

// How large a text is written in a cell, 1 for full size.
const fitOf = (text, width) => Math.min(1, (width - FRAME) / (widthOf(text) || 1));

// The width of a trace's decoded cells: of words where its prompt is written in them, or where a token needs it.
function widthClass(record) {
  const start = record.initial.filter((token) => token !== record.mask).map((token) => record.text(token)).join("");
  if (/\p{Script=Latin}/u.test(start.replace(/⟨.*?⟩/g, "")) && !/[\u2e80-\uffef]/.test(start)) return WIDE;
  const written = [...record.commitsAt, ...record.editsAt].flat();
  return written.some(({ token }) => fitOf(record.text(token), NARROW) < SMALLEST) ? WIDE : NARROW;
}
