// The panel that explains a token: the one under the mouse or focus, else the one kept by a click or Enter.

const HISTORY = 6; // guesses named

class Why {
  constructor(player) {
    this.player = player;
    this.node = make("div", { class: "dllm-why", "aria-live": "polite", role: "status", tabindex: "0", "aria-label": "reason of the token" });
  }

  pick(side, position) {
    const again = this.picked && this.picked.side === side && this.picked.position === position;
    this.mark(false);
    this.picked = again ? null : { side, position };
    this.mark(true);
    side.focus(position);
    this.explain(side, position);
  }

  release() {
    this.mark(false);
    this.picked = null;
    this.explain();
  }

  mark(on) {
    if (!this.picked) return;
    const cell = this.picked.side.cells[this.picked.position];
    cell.classList.toggle("picked", on);
    cell.setAttribute("aria-selected", String(on));
  }

  refresh(side = this.shown?.side) { // this side's cells have changed
    this.mark(true);
    if (side && this.shown?.side === side) this.explain(side, this.shown.position, this.passing);
    else if (!this.shown) this.explain();
  }

  explain(side, position, passing = Boolean(side)) {
    this.passing = passing; // under the mouse or focus, not kept
    if (!side && this.picked) ({ side, position } = this.picked);
    this.shown = side ? { side, position } : null;
    if (!side) {
      this.node.replaceChildren("Point at a token, or Tab to it, to see when and why it was chosen. Click or Enter keeps it here, Esc lets it go.");
      return;
    }
    const { record, k } = side;
    const what = record.at(position, k);
    const where = [...(this.player.sides.length > 1 ? [record.label] : []), `position ${position}`].join(", ");
    const lines = what.commit ? this.committed(record, what, where)
      : what.state === "prompt" ? [[this.token(record, what.token), ` ${where}, token ${this.number(record, what.token)}: prompt, never masked.`]]
      : what.state === "hand" ? byHand(this, record, what, where)
      : this.waiting(record, what, where, position, k);
    const guesses = this.guesses(record, position, Math.min(what.commit ? what.commit.step : k, k));
    if (guesses.length > (what.commit ? 0 : 1)) {
      lines.push(["Guesses before: ", ...guesses.flatMap((event, i) => [
        i ? " → " : "", this.token(record, event.token), ` ${share(event.confidence)} (step ${event.from}${event.to > event.from ? `–${event.to}` : ""})`,
      ])]);
    }
    lines.push(...changeLine(this, side, position));
    this.node.replaceChildren(...lines.map((parts) => make("div", {}, parts)));
  }

  committed(record, { commit, token }, where) {
    const { step, confidence, reason, others } = commit;
    const lines = [
      [this.token(record, token), ` ${where}, token ${this.number(record, token)}: filled in step ${step + 1} (forward ${record.forwards[step + 1]}). `, this.jump(step + 1, record)],
      [make("strong", { text: "Why: " }), `${record.because(commit)} (${reason}).`],
      ["Confidence ", this.meter(confidence), share(confidence), ...(others.length ? ["; runners-up: "] : []),
        ...others.flatMap(([other, p]) => [this.token(record, other), " ", this.meter(p, true), `${share(p)}  `])],
    ];
    const masked = lastBefore(record.editsAt[this.shown.position], step + 1)?.step ?? -1; // by hand: nothing was replaced
    const earlier = record.commitsAt[this.shown.position].filter((event) => event.step < step && event.step > masked);
    if (earlier.length) {
      lines.push(["It replaced: ", ...earlier.flatMap((event, i) => [
        i ? " → " : "", this.token(record, event.token), ` ${share(event.confidence)} (step ${event.step + 1}, ${event.reason})`,
      ])]);
    }
    return lines;
  }

  waiting(record, what, where, position, k) {
    const { draft } = what;
    const [first, last] = record.block(k);
    const inBlock = position >= first && position <= last;
    const lines = [[make("b", { text: "░" }), ` ${where}: masked ${k ? `after step ${k}` : "at the start"}. `, ...maskedByHand(record, what, position, k)]];
    if (!draft) {
      lines[0].push(inBlock ? (k ? "No guess was recorded." : "Its block comes first.") : this.unread(record, position, k));
      return lines;
    }
    const committed = record.commitsAt[position].find((event) => event.step >= k);
    if (committed) lines[0].push(this.jump(committed.step + 1, record, "show when it is filled"));
    lines.push(["The model's guess: ", this.token(record, draft.token), " ", this.meter(draft.confidence), `${share(draft.confidence)}. `]);
    if (inBlock) lines.push([make("strong", { text: "Why not kept: " }), `${record.becauseNot(draft, k)}.`]);
    return lines;
  }

  unread(record, position, k) {
    if (k < record.steps.length || record.running) return "Its block has not been worked on yet.";
    return position > record.end(k) ? "The answer ended before it: its block was not needed." : "The decoding stopped before its block.";
  }

  // The guesses of the first k steps at a position, neighbours of one token joined: [{token, confidence, from, to}].
  guesses(record, position, k) {
    const joined = [];
    record.draftsAt[position].slice(0, countBefore(record.draftsAt[position], k, stepOf)).forEach((event) => {
      const last = joined.at(-1);
      if (last?.token === event.token) Object.assign(last, { confidence: event.confidence, to: event.step + 1 });
      else joined.push({ ...event, from: event.step + 1, to: event.step + 1 });
    });
    return joined.slice(-HISTORY);
  }

  token(record, token) {
    return make("b", { text: record.text(token) });
  }

  number(record, token) { // with its name in the tokenizer where another one is shown
    return token in record.names ? `${token} (${record.names[token]})` : token;
  }

  meter(value, other) {
    return make("span", { class: `dllm-meter${other ? " other" : ""}`, "aria-hidden": "true", style: { width: `${plain(value * 8)}em` } });
  }

  jump(step, record, text = "show that step") {
    const go = () => this.player.seek(record[this.player.unit][step]);
    return make("button", { type: "button", class: "dllm-jump", text, on: { click: go } });
  }
}
