// Helpers, and one trace indexed by position. No algorithm lives here: everything was recorded by the decoder.
// Step k means: after the first k steps; k = 0 is the start. Data: see show_player.record.

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

const columns = (text) => [...text].reduce((sum, sign) => sum + (sign.codePointAt(0) > 0x2e7f ? 2 : 1), 0);
const plain = (value, digits = 2) => Number(value).toFixed(digits);
const duration = (seconds) => (seconds < 1 ? `${plain(seconds * 1000, 0)} ms` : `${plain(seconds)} s`);
const lastBefore = (events, k) => events.findLast((event) => event.step < k); // events are in order of step

// One trace, indexed by position: what was committed and guessed there, and when.
class Record {
  constructor(trace) {
    Object.assign(this, trace);
    const length = trace.initial.length;
    this.commitsAt = Array.from({ length }, () => []);
    this.draftsAt = Array.from({ length }, () => []);
    let filled = 0;
    this.filled = [0];
    trace.steps.forEach((step, index) => {
      for (const [position, token, confidence, reason, others] of step.commits) {
        this.commitsAt[position].push({ step: index, token, confidence, reason, others });
        filled += reason !== "edit";
      }
      for (const [position, token, confidence] of step.drafts) {
        this.draftsAt[position].push({ step: index, token, confidence });
      }
      this.filled.push(filled);
    });
  }

  text(token) {
    return this.vocabulary[token] ?? `#${token}`;
  }

  masked(k) {
    return k ? this.steps[k - 1].masked : this.initial.filter((token) => token === this.mask).length;
  }

  // What stands at a position after k steps, and why.
  at(position, k) {
    const commit = lastBefore(this.commitsAt[position], k);
    const step = k ? this.steps[k - 1] : this.steps[0];
    const inBlock = Boolean(step) && position >= step.block[0] && position < step.block[1];
    if (commit) {
      const edited = this.commitsAt[position].filter((event) => event.step < k).length > 1 || commit.reason === "edit";
      return { state: commit.step === k - 1 ? "now" : "before", token: commit.token, commit, edited, inBlock };
    }
    if (this.initial[position] !== this.mask) return { state: "prompt", token: this.initial[position], inBlock };
    return { state: "masked", token: this.mask, draft: lastBefore(this.draftsAt[position], k), inBlock };
  }

  // Position of the first eos decoded so far; what stands behind it is filling.
  end(k) {
    const hit = this.commitsAt.findIndex((events) => lastBefore(events, k)?.token === this.eos);
    return hit < 0 ? Infinity : hit;
  }

  stepAt(unit, time) {
    return this[unit].findLastIndex((value) => value <= time + 1e-9);
  }
}
