// The engine behind messages, so that the page stays alive while it decodes. Each answer holds the `id` of its request; an
// answer { id, error } says what is wrong. Numbers and names are those of a `Trace`.
//
// { do: "open", id, name, weights (ArrayBuffer), config (config.json), tokenizer (tokenizer.json), ends (token ids, eos first;
//   left out: config's eos) } → { id, opened: name, info: { objective, block_size, label_shift, chat, grid, layers, heads } }
// { do: "encode", id, model, text } → { id, encoded: { tokens, texts, unknown (characters without a token, each once) } }
// { do: "decode", id, model, settings, edits, and one of: text (a prompt), messages ([{ role, content }, …]), prompt (token ids),
//   gaps (a text in which two or more underscores are a gap, one for each masked token), tokens (ids with masks, to infill) }
//   → { id, begun: a trace without steps, unknown } → { id, step, texts, reused, entropies } for each step, texts: { token id: text }
//   of its tokens, reused: whether its logits were remembered, entropies: [[position, nats], …] of the masks that it read
//   → { id, trace, stopped }: as Trace.to_json(), with vocabulary, text and edits; also after "stop", with the steps so far
// { do: "stop", id } of a decoding; it ends after the step in work
// { do: "top", id, step, position } of a decoding that began → { id, top: { step, position, tokens: [[token, p, text], …] } }: the
//   20 most probable, as step `step` (from 0) saw them, at any position up to the end of its block
// { do: "attention", id, step, layer } → { id, attention: { step, layer, heads, length, p } }, p: Float32Array [heads, length,
//   length], who (row) looked at whom in that step; under guidance, of the forward with the prompt
// { do: "close", id } forgets a decoding

const TOP = 20, GAP = /(_{2,}|＿{2,})/;

function serve(post) {
  const models = new Map(), runs = new Map(), channel = new MessageChannel(), waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  const handleMessages = () => new Promise((resume) => { waiting.push(resume); channel.port2.postMessage(0); });
  const find = (map, key, what) => map.get(key) ?? fail(`${what} ${key}: is not open`);

  function open({ id, name, weights, config, tokenizer, ends }) {
    const info = { block_size: null, label_shift: false, chat: false, grid: "start", ...config.dllm?.checkpoint };
    const model = new Transformer(config, weights), eos = ends ?? [config.eos_token_id];
    const engine = { model, mask: config.mask_token_id, ends: eos, labelShift: info.label_shift, grid: info.grid };
    models.set(name, { engine, info, tokenizer: new Tokenizer(tokenizer), bos: config.bos_token_id });
    const { objective, block_size, label_shift, chat, grid } = info, layers = model.layers.length;
    post({ id, opened: name, info: { objective, block_size, label_shift, chat, grid, layers, heads: model.heads } });
  }

  function encode({ id, model, text }) {
    const { tokenizer } = find(models, model, "model"), tokens = tokenizer.encode(text);
    const texts = tokens.map((token) => tokenizer.decode([token]));
    post({ id, encoded: { tokens, texts, unknown: tokenizer.unknownCharacters(text) } });
  }

  // The tokens to decode from, and how many of them are the prompt (none for infilling).
  function begin({ text, messages, prompt, gaps, tokens, settings }, { engine, info, tokenizer, bos }) {
    const start = (content) => (info.chat ? tokenizer.chat([{ role: "user", content }]) : [bos, ...tokenizer.encode(content)]);
    if (gaps !== undefined) {
      if (!GAP.test(gaps)) fail("gaps: the text has none; write two or more underscores, one for each masked token");
      const pieces = gaps.split(GAP).map((piece, i) => (i % 2 ? Array(piece.length).fill(engine.mask) : tokenizer.encode(piece, "gaps")));
      tokens = [...(info.chat ? start(text ?? "") : [bos]), ...pieces.flat()];
    }
    if (tokens) return { initial: tokens, prompt: [], config: gapConfig(tokens, settings, engine.mask) };
    prompt ??= messages ? tokenizer.chat(messages) : start(text);
    if (!prompt.length) fail("prompt: is empty; give at least one token (bos)");
    if (prompt.includes(engine.mask)) fail(`prompt: holds the mask token (${engine.mask}); use tokens for gaps`);
    const config = completed(settings);
    return { initial: [...prompt, ...Array(config.max_new_tokens).fill(engine.mask)], prompt, config };
  }

  async function decodeAll(request) {
    const { id, model, edits = [] } = request, opened = find(models, model, "model"), { engine, tokenizer } = opened;
    const { initial, prompt, config } = begin({ settings: {}, ...request }, opened), [eos, ...others] = engine.ends;
    const run = { state: new DecodingState(engine, initial, prompt.length, config, edits), stopped: false, tokenizer };
    const trace = {
      style: config.style, prompt, initial, mask_token_id: engine.mask, eos_token_id: eos, steps: [], settings: config,
      vocabulary: {}, text: "", other_ends: others, edits: run.state.edits,
    };
    const name = (tokens) => Object.fromEntries(tokens.map((token) => [token, tokenizer.decode([token])]));
    trace.vocabulary = name([...initial, ...trace.edits.map(({ token }) => token).filter((token) => token !== null)]);
    const texts = [request.text, request.gaps, ...(request.messages ?? []).map(({ content }) => content)].join("");
    runs.set(id, run);
    post({ id, begun: trace, unknown: tokenizer.unknownCharacters(texts) });
    for (const step of decode(run.state)) {
      const { commits, draft } = step, alternatives = commits.flatMap((commit) => commit.alternatives.map(([token]) => token));
      const texts = name([...commits.map(({ token }) => token), ...alternatives, ...draft.map(([, token]) => token)]);
      trace.steps.push(step);
      Object.assign(trace.vocabulary, texts);
      const { reused, entropies } = run.state.asked[step.index];
      post({ id, step, texts, reused, entropies });
      await handleMessages();
      if (run.stopped) break;
    }
    const isSpecial = (token) => engine.ends.includes(token) || token === engine.mask, { tokens } = run.state;
    const answer = tokens.slice(prompt.length, initial.length), end = answer.findIndex((token) => engine.ends.includes(token));
    const shown = prompt.length ? answer.slice(0, end < 0 ? answer.length : end).filter((token) => !isSpecial(token)) : answer;
    trace.text = tokenizer.decode(shown, true);
    post({ id, trace, stopped: run.stopped });
  }

  function top({ id, step, position }) {
    const { state, tokenizer } = find(runs, id, "decoding"), { seen } = state.asked[step] ?? fail(`step ${step}: there is none`);
    const end = state.config.style === "ar" ? seen.length + 1 : seen.length;
    if (!(position >= 0 && position < end)) fail(`position ${position}: step ${step} saw those before ${end}`);
    const tokens = state.top(step, position, TOP).map(([token, p]) => [token, p, tokenizer.decode([token])]);
    post({ id, top: { step, position, tokens } });
  }

  function attention({ id, step, layer }) {
    const { state } = find(runs, id, "decoding"), { seen } = state.asked[step] ?? fail(`step ${step}: there is none`);
    const { model } = state.engine;
    if (!model.layers[layer]) fail(`layer ${layer}: the model has ${model.layers.length}`);
    const p = model.attention(seen, layer, state.grid);
    post({ id, attention: { step, layer, heads: model.heads, length: seen.length, p } }, [p.buffer]);
  }

  const stop = ({ id }) => { if (runs.has(id)) runs.get(id).stopped = true; };
  const actions = { open, encode, decode: decodeAll, top, attention, stop, close: ({ id }) => runs.delete(id) };
  return async (request) => {
    try {
      await (actions[request.do] ?? fail(`${request.do}: no such action`))(request);
    } catch (error) {
      post({ id: request.id, error: error.message });
    }
  };
}

if (typeof importScripts === "function") {
  const answer = serve((message, transfer) => postMessage(message, transfer));
  onmessage = ({ data }) => answer(data);
}
