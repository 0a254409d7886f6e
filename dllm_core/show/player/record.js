// Helpers, and one trace indexed by position. No algorithm is in here: the decoder recorded everything.
// Step k means: after the first k steps; k = 0 is the start. The data come from `record` in page.py.

function make(tag, options = {}, children = []) {
  const { text, on, style, ...attributes } = options;
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text; // never innerHTML: texts come from a model
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  for (const [name, value] of Object.entries(style || {})) node.style.setProperty(name, value);
  for (const [name, act] of Object.entries(on || {})) node.addEventListener(name, act);
  node.append(...children);
  return node;
}

function drawing(tag, attributes, children = []) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const plain = (value, digits = 2) => Number(value).toFixed(digits);
const share = (value) => (value < 0.0005 ? "<0.001" : plain(value, 3)); // a probability
const duration = (seconds) => (seconds < 1 ? `${plain(seconds * 1000, 0)} ms` : `${plain(seconds)} s`);

// How many of `items`, in order of `key`, come before `limit`.
function countBefore(items, limit, key) {
  let low = 0, high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(items[middle]) < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

const stepOf = (event) => event.step;
const lastBefore = (events, k) => events[countBefore(events, k, stepOf) - 1]; // events are in order of step

// One trace, indexed by position: what was committed and guessed there, and when.
class Record {
  constructor(trace) {
    Object.assign(this, trace);
    const length = trace.initial.length;
    this.commitsAt = Array.from({ length }, () => []);
    this.draftsAt = Array.from({ length }, () => []);
    trace.steps.forEach((step, index) => {
      for (const [position, token, confidence, reason, others] of step.commits) {
        this.commitsAt[position].push({ step: index, token, confidence, reason, others });
      }
      const [gaps, tokens, thousandths] = step.drafts;
      gaps.reduce((before, gap, i) => {
        const events = this.draftsAt[before + gap];
        const changed = events.length > 0 && events.at(-1).token !== tokens[i];
        events.push({ step: index, token: tokens[i], confidence: thousandths[i] / 1000, changed });
        return before + gap;
      }, 0);
    });
    editsByPosition(this);
    this.drafted = this.draftsAt.some((events) => events.length);
    this.edited = trace.steps.some((step) => step.commits.some((commit) => commit[3] === "edit"));
    const isEnd = ({ token }) => this.ends.includes(token);
    this.endings = [...this.commitsAt.keys()].filter((at) => [...this.commitsAt[at], ...this.editsAt[at]].some(isEnd));
  }

  text(token) {
    return this.vocabulary[token] ?? `#${token}`;
  }

  masked(k) {
    const recorded = k ? this.steps[k - 1].masked : this.initial.filter((token) => token === this.mask).length;
    return recorded + (this.masksByHand[k] ?? 0);
  }

  // [first, last] position of the block that step k worked on (the first block at the start).
  block(k) {
    const step = this.steps[Math.max(k - 1, 0)];
    return step ? [step.block[0], Math.min(step.block[1], this.initial.length) - 1] : [0, -1];
  }

  // The state and token of a position after k steps, and why.
  at(position, k) {
    const commit = lastBefore(this.commitsAt[position], k);
    const edit = lastBefore(this.editsAt[position], k);
    if (edit && edit.step >= (commit?.step ?? -1)) {
      const draft = lastBefore(this.draftsAt[position], k);
      if (edit.token !== this.mask) return { state: "hand", token: edit.token, edit };
      return { state: "masked", token: this.mask, edit, draft: draft?.step > edit.step ? draft : undefined };
    }
    if (commit) {
      const edited = commit.reason === "edit";
      return { state: commit.step === k - 1 ? "now" : "before", token: commit.token, commit, edited };
    }
    if (this.initial[position] !== this.mask) return { state: "prompt", token: this.initial[position] };
    return { state: "masked", token: this.mask, draft: lastBefore(this.draftsAt[position], k) };
  }

  // Position of the first eos, or other end, decoded so far; the tokens behind it are filling.
  end(k) {
    return this.endings.find((at) => this.ends.includes(this.at(at, k).token)) ?? Infinity;
  }

  stepAt(unit, time) {
    return countBefore(this[unit], time + 1e-9, Number) - 1;
  }

  // How much of the decoding is done, 0 to 1: all of it only where it is finished.
  progress(k) {
    const all = this.masked(0) - (this.finished ? this.masked(this.steps.length) : 0);
    return all ? (this.masked(0) - this.masked(k)) / all : 1;
  }

  // "3 masked", and where those of a finished answer stand.
  maskedWords(k) {
    const behind = this.finished && k === this.steps.length && this.masked(k);
    return `${this.masked(k)} masked${behind ? " behind the end" : ""}`;
  }

  // The most steps that a decoding in work is expected to take: what an axis shows until it is finished.
  get most() {
    const steps = this.style === "llada1" && Number(this.settings.steps);
    return Math.max(this.steps.length, steps || this.masked(0));
  }

  // Where an axis of time ends: at the last step, or, in work, at a place that moves seldom or never.
  axisEnd(unit) {
    const last = this[unit].at(-1);
    if (!this.running) return last;
    if (unit === "forwards") return Math.max(last, this.most * (Number(this.settings.cfg_scale) > 0 ? 2 : 1));
    return 2 ** Math.ceil(Math.log2(Math.max(last, 0.25)));
  }

  // The reason of a commit in words, with the numbers of its step.
  because({ step, reason }) {
    const { commits, held } = this.steps[step];
    const filled = commits.filter((commit) => commit[3] === reason).length;
    return (this.reasons[reason] ?? "not recorded").replace("{filled}", filled).replace("{held}", held);
  }

  // Why the guess at a masked position was not kept in step k.
  becauseNot({ confidence }, k) {
    const { commits, held } = this.steps[k - 1];
    const why = this.threshold === null ? "share" : confidence <= this.threshold ? "below" : held ? "held" : "share";
    return this.waits[why].replace("{filled}", commits.length);
  }

  // Two lines: where the decoding is, and what step k did. guessed: tokens that it masked again, said where `remasked`.
  summary(k, guessed, remasked) {
    const steps = this.steps.length;
    const step = !this.running ? `step ${k} of ${steps}` : k < steps ? `step ${k} of ${steps} so far` : `step ${k}, running`;
    const where = [step, `${this.forwards[k]} forward passes`, duration(this.seconds[k]), this.maskedWords(k)];
    if (!k) return [where, ["nothing filled yet"]];
    const { commits, held } = this.steps[k - 1];
    const counts = {};
    for (const commit of commits) counts[commit[3]] = (counts[commit[3]] || 0) + 1;
    const names = Object.entries(counts).map(([reason, count]) => `${count} (${reason})`).join(", ") || "none";
    const [first, last] = this.block(k);
    const what = remasked && this.drafted
      ? [`${commits.length + guessed} guessed`, `${guessed} masked again`, `kept: ${names}`]
      : [`filled now: ${names}`];
    if (held) what.push(`${held} held back`);
    what.push(first === last ? `position ${first}` : `block ${first}–${last}`);
    if (k === steps && !this.running) what.push(this.finished ? "finished" : "not finished: no further step recorded");
    return [where, what];
  }
}
