// The engine behind messages, so that the page stays alive while it decodes. Each answer has the `id` of its request;
// { id, error } says what is wrong. Names and numbers are those of a `Trace`.
//
// { do: "open", id, name, weights: ArrayBuffer, config: config.json, tokenizer: tokenizer.json, ends: the token ids that
//   end an answer, eos first (left out: config's eos) }
//   → { id, opened: name, info: { objective, block_size, label_shift, chat, grid, layers, heads } }
// { do: "encode", id, model, text } → { id, encoded: { tokens, texts, unknown: its characters without a token } }
// { do: "decode", id, model, settings, edits, and one of: text (a prompt), messages ([{ role, content }, …]), prompt
//   (token ids), gaps (a text to infill: two or more underscores are a gap, one for each mask), tokens (ids with masks) }
//   → { id, begun: a trace without steps, unknown }
//   → { id, step, texts, reused, entropies } for each step; texts: { token id: text } of its tokens; reused: whether
//     its logits were remembered; entropies: [[position, nats], …] of the masks that it read
//   → { id, trace, stopped }: as Trace.to_json(), with vocabulary, text and edits; after "stop" with the steps so far
// { do: "stop", id } of a decoding: it ends after the step in work
// { do: "top", id, step, position } of a decoding that has begun → { id, top: { step, position, tokens: [[token, p,
//   text], …] } }: the 20 most probable as step `step` (from 0) saw them, at any position up to the end of its block
// { do: "attention", id, step, layer } → { id, attention: { step, layer, heads, length, p } }; p: Float32Array [heads,
//   length, length], how much each position (row) looked at each other in that step (under guidance: with the prompt)
// { do: "close", id } forgets a decoding

const TOP = 20, GAP = /(_{2,}|＿{2,})/;

function serve(post) {
  const models = new Map(), runs = new Map(), channel = new MessageChannel(), waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  const handleMessages = () => new Promise((resume) => waiting.push(resume) && channel.port2.postMessage(0));
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
    const ask = (content) => tokenizer.chat([{ role: "user", content }]), { mask } = engine;
    if (gaps !== undefined) {
      if (!GAP.test(gaps)) fail("gaps: the text has none; write two or more underscores, one for each masked token");
      const encode = (piece, i) => (i % 2 ? Array(piece.length).fill(mask) : tokenizer.encode(piece, "gaps"));
      tokens = [...(info.chat ? ask(text ?? "") : [bos]), ...gaps.split(GAP).flatMap(encode)];
    }
    if (tokens) return { initial: tokens, prompt: [], config: gapConfig(tokens, settings, mask) };
    prompt ??= messages ? tokenizer.chat(messages) : info.chat ? ask(text) : [bos, ...tokenizer.encode(text)];
    if (!prompt.length) fail("prompt: is empty; give at least one token (bos)");
    const at = prompt.indexOf(mask), config = completed(settings);
    if (at >= 0) fail(`prompt: holds the mask token (${mask}) at ${at}; use tokens for gaps`);
    return { initial: [...prompt, ...Array(config.max_new_tokens).fill(mask)], prompt, config };
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
    trace.vocabulary = name([...initial, ...trace.edits.map(({ token }) => token ?? initial[0])]);
    const contents = (request.messages ?? []).map(({ content }) => content);
    const unknown = tokenizer.unknownCharacters([request.text, request.gaps, ...contents].join(""));
    runs.set(id, run);
    post({ id, begun: trace, unknown });
    for (const step of decode(run.state)) {
      const kept = step.commits.flatMap(({ token, alternatives }) => [token, ...alternatives.map(([other]) => other)]);
      const texts = name([...kept, ...step.draft.map(([, token]) => token)]);
      const { reused, entropies } = run.state.asked.at(-1);
      trace.steps.push(step);
      Object.assign(trace.vocabulary, texts);
      post({ id, step, texts, reused, entropies });
      await handleMessages();
      if (run.stopped) break;
    }
    const final = run.state.tokens.slice(prompt.length, initial.length), isEnd = (token) => engine.ends.includes(token);
    const end = prompt.length ? final.findIndex(isEnd) : -1; // an infilled text is shown whole
    trace.text = tokenizer.decode(end < 0 ? final : final.slice(0, end), true);
    post({ id, trace, stopped: run.stopped });
  }

  // A decoding, and what its step `step` saw.
  function recorded({ id, step }) {
    const run = find(runs, id, "decoding");
    return { ...run, ...(run.state.asked[step] ?? fail(`step ${step}: there is none`)) };
  }

  function top(request) {
    const { id, step, position } = request, { state, tokenizer, seen } = recorded(request);
    const end = state.config.style === "ar" ? seen.length + 1 : seen.length;
    if (!(position >= 0 && position < end)) fail(`position ${position}: step ${step} saw those before ${end}`);
    const tokens = state.top(step, position, TOP).map(([token, p]) => [token, p, tokenizer.decode([token])]);
    post({ id, top: { step, position, tokens } });
  }

  function attention(request) {
    const { id, step, layer } = request, { state, seen } = recorded(request), { model } = state.engine;
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
