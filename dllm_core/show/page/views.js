// What stands beside the player: running text, the branches' differences, the heat map, and attention over the text.

function drawText({ player, sides }) {
  byId("running").replaceChildren(...player.sides.map((view) => make("p", {}, [
    ...(player.sides.length > 1 ? [make("small", { text: view.record.label })] : []),
    ...runningText(view.of.trace, view.k).map(([text, masked]) => (masked ? make("i", { text }) : text)),
  ])));
  const [{ record, of: side }] = player.sides;
  const all = record.forwards.at(-1);
  byId("progress").textContent = side.running ? say("running")
    : side.reused ? say("reused", { reused: side.reused, all }) : say("done", { tokens: record.tokens, forwards: all });
}

// A line per side: its edits with their reason, and a button that removes it. The player says where branches differ.
function drawBranches(studio) {
  const { sides: views } = studio.player;
  byId("branches").replaceChildren(...(views.length < 2 ? [] : views.map((view) => {
    const { record, of: side } = view;
    const edits = record.edits.map(([step, position, token, action, why]) => {
      const words = say("edit", { step, words: say(`edit_${action}`, { position, token: record.text(token) }) });
      return make("span", { class: "quiet", text: why ? `${words} (${why})` : words });
    });
    const name = say("remove", { label: record.label });
    const on = { click: () => studio.remove(side) };
    const remove = make("button", { type: "button", text: "✕", "aria-label": name, title: name, on });
    return make("div", { class: "branch" }, [dash(view), make("b", { text: record.label }), ...edits, remove]);
  })));
}

// The first side's (or the kept token's side's) steps from top to bottom, positions from left to right.
class HeatMap {
  constructor(studio) {
    this.studio = studio;
    this.node = byId("map");
    byId("map-measure").addEventListener("change", () => this.refresh(true));
    this.node.addEventListener("click", ({ clientX, clientY }) => {
      const { left, top, width, height } = this.node.getBoundingClientRect();
      this.go(Math.floor(((clientX - left) / width) * this.columns), Math.floor(((clientY - top) / height) * this.rows) + 1);
    });
    this.node.addEventListener("keydown", (event) => {
      const [across, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
      if (across === undefined) return;
      event.preventDefault();
      const position = this.studio.picked?.position ?? this.first;
      this.go(position - this.first + across, this.view.k + down);
    });
  }

  go(column, k) {
    const { player } = this.studio;
    const position = this.first + Math.min(Math.max(column, 0), this.columns - 1);
    player.seek(this.view.record[player.unit][Math.min(Math.max(k, 1), this.rows)]);
    if (this.studio.picked?.position !== position) player.why.pick(this.view, position);
    this.refresh();
  }

  refresh(force) {
    if (byId("view-map").hidden) return;
    const { picked, player } = this.studio;
    const view = picked?.view ?? player.sides[0];
    const { trace } = view.of;
    if (force || this.trace !== trace || this.rows !== trace.steps.length) this.draw(view);
    const column = picked ? picked.position - this.first : -9;
    this.cursor.setAttribute("d", `M0 ${view.k - 1}h${this.columns}v1h${-this.columns}zM${column} 0h1v${this.rows}h-1z`);
    const value = picked && this.values[view.k - 1]?.get(picked.position);
    const token = picked && view.record.text(view.record.at(picked.position, view.k).token);
    byId("map-at").textContent = picked ? say("map_at", { step: view.k, position: picked.position, token, value: value === undefined ? "" : plain(value) }) : "";
  }

  // A path per shade, so that a long decoding stays quick.
  draw(view) {
    const { trace } = view.of;
    Object.assign(this, { view, trace, rows: trace.steps.length, first: trace.initial.indexOf(trace.mask_token_id) });
    this.columns = trace.initial.length - this.first;
    this.values = measured(view.of, byId("map-measure").value);
    const top = Math.max(1, ...this.values.flatMap((row) => [...row.values()]));
    const shades = Array.from({ length: LEVELS + 1 }, () => "");
    this.values.forEach((row, step) => row.forEach((value, position) => {
      shades[Math.round((LEVELS * value) / top)] += `M${position - this.first} ${step}h1v1h-1z`;
    }));
    const dots = trace.steps.flatMap(({ commits }, step) => commits.map(({ position }) => `M${position - this.first + 0.5} ${step + 0.5}h.01`));
    this.cursor = drawing("path", { class: "cursor" });
    this.node.replaceChildren(drawing("svg", { viewBox: `0 0 ${this.columns} ${this.rows}`, preserveAspectRatio: "none", "aria-hidden": "true" }, [
      ...shades.map((d, level) => drawing("path", { d, class: "shade", "fill-opacity": 0.08 + (0.92 * level) / LEVELS })),
      drawing("path", { d: dots.join(""), class: "dots" }), this.cursor,
    ]));
  }
}

// [steps] Map of position → value: of the guesses that a step read.
function measured({ trace, entropies }, measure) {
  const before = new Map();
  return trace.steps.map((step, index) => {
    const read = [...step.draft, ...step.commits.map(({ position, token, confidence }) => [position, token, confidence])];
    return new Map(read.map(([position, token, confidence]) => {
      const changed = before.has(position) && before.get(position) !== token ? 1 : 0;
      before.set(position, token);
      return [position, { confidence, changed, entropy: entropies[index]?.get(position) ?? 0 }[measure]];
    }));
  });
}

// Attention of the kept token in the forward pass that read it, as bars over the text.
class Attention {
  constructor(studio) {
    this.studio = studio;
    const { num_hidden_layers: layers, num_attention_heads: heads } = DATA.models.llada2;
    const options = (count) => Array.from({ length: count }, (_, i) => make("option", { value: i, text: i + 1 }));
    byId("layer").append(...options(layers));
    byId("head").append(make("option", { value: "", "data-say": "mean" }), ...options(heads));
    for (const id of ["layer", "head"]) byId(id).addEventListener("change", () => this.refresh(true));
  }

  refresh(force) {
    const { picked, worker } = this.studio;
    const at = picked && !byId("view-attention").hidden && placeOf(picked);
    const layer = Number(byId("layer").value);
    const key = at?.step >= 0 ? `${picked.side.id} ${at.step} ${picked.position} ${layer}` : "";
    if (key === this.key && !force) return;
    this.key = key;
    this.place = key ? { ...picked, step: at.step } : null;
    this.bars(null, []);
    byId("attention-most").textContent = key ? "" : say("attention_none");
    if (key) worker.postMessage({ do: "attention", id: picked.side.id, step: at.step, layer });
  }

  // p: [heads, length, length], who (row) looked at whom.
  show(side, { layer, heads, length, p }) {
    const place = this.place;
    if (side !== place?.side || layer !== Number(byId("layer").value)) return;
    const chosen = byId("head").value === "" ? Array.from({ length: heads }, (_, head) => head) : [Number(byId("head").value)];
    const row = place.position - (DATA.models[side.request.settings.style].dllm.checkpoint.label_shift ? 1 : 0);
    const of = (position) => chosen.reduce((sum, head) => sum + p[(head * length + row) * length + position], 0) / chosen.length;
    const weights = Array.from({ length }, (_, position) => of(position));
    this.bars(place.view, weights);
    const tokens = tokensAt(side.trace, place.step);
    const most = weights.map((weight, position) => [weight, position]).sort(([a], [b]) => b - a).slice(0, 6);
    const text = (position) => place.view.record.text(tokens[position] ?? place.view.record.mask);
    byId("attention-most").textContent = say("most") + most.map(([weight, position]) => `${text(position)} (${position}) ${share(weight)}`).join(" · ");
  }

  bars(view, weights) {
    for (const { cells } of this.studio.player?.sides ?? []) cells.forEach((cell) => cell.style.removeProperty("--attention"));
    const top = Math.max(...weights);
    weights.forEach((weight, position) => view.cells[position]?.style.setProperty("--attention", plain(weight / top, 3)));
  }
}
