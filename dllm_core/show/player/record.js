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

// The next of 1, 2, 5, 10, 20, … from a value on: a limit of an axis that rarely changes.
function rounded(value) {
  const unit = 10 ** Math.floor(Math.log10(value || 1));
  return unit * [1, 2, 5, 10].find((factor) => factor * unit >= value * (1 - 1e-9));
}

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

  // The most that the clock can reach: while it runs, no step fills less than one mask.
  most(unit) {
    if (!this.running || unit === "seconds") return this.running ? rounded(this[unit].at(-1)) : this[unit].at(-1);
    const steps = (this.style === "llada1" && Number(this.settings.steps)) || Infinity;
    return Math.min(steps, this.masked(0)) * (this.forwards[1] ?? 1);
  }

  // How much of the decoding is done, 0 to 1.
  progress(k) {
    const all = this.masked(0) - (this.running ? 0 : this.masked(this.steps.length));
    return all ? (this.masked(0) - this.masked(k)) / all : 1;
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
}
