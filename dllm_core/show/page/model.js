// The Transformer of dllm_core/model.py in float64: RMSNorm, QK-norm, RoPE, grouped heads, SwiGLU, with a cache of keys
// and values, and a memory of logits. One sequence at a time; positions count from 0.

const MOST_CACHES = 8, MOST_LOGITS = 2 ** 24; // sequences whose keys are kept; numbers of logits kept, 64 MB

class Transformer {
  // config: of config.json; buffer: of model.safetensors.
  constructor(config, buffer) {
    const tensors = readSafetensors(buffer), get = (name) => tensors[name] ?? fail(`weights: no tensor ${name}`);
    if (config.hidden_act !== "silu") fail(`config: hidden_act is ${config.hidden_act}; the page computes silu`);
    this.heads = config.num_attention_heads;
    this.groups = config.num_key_value_heads; // heads of keys and values
    this.size = config.head_dim;
    this.eps = config.rms_norm_eps;
    this.positions = config.max_position_embeddings;
    this.vocabulary = config.vocab_size;
    this.embedding = get("model.embed_tokens.weight");
    this.norm = get("model.norm.weight");
    this.head = config.tie_word_embeddings ? this.embedding : get("lm_head.weight");
    this.layers = Array.from({ length: config.num_hidden_layers }, (_, l) => {
      const of = (name) => get(`model.layers.${l}.${name}.weight`);
      const own = (name) => tensors[`model.layers.${l}.self_attn.${name}`]; // not every model has it
      const [q, k, v] = [..."qkv"].map((name) => ({
        weight: of(`self_attn.${name}_proj`), bias: own(`${name}_proj.bias`), norm: own(`${name}_norm.weight`),
      }));
      const [gate, up, down] = ["gate", "up", "down"].map((name) => of(`mlp.${name}_proj`));
      const norms = [of("input_layernorm"), of("post_attention_layernorm")];
      return { q, k, v, o: of("self_attn.o_proj"), gate, up, down, norms };
    });
    const half = this.size / 2, f32 = Math.fround; // angles are float32 in PyTorch
    const angle = (i) => f32(f32(config.rope_theta ** -f32((2 * (i % half)) / this.size)) * Math.floor(i / half));
    this.cos = Float64Array.from({ length: this.positions * half }, (_, i) => Math.cos(angle(i)));
    this.sin = Float64Array.from({ length: this.positions * half }, (_, i) => Math.sin(angle(i)));
    this.buffers = {}; // reused by every forward
    this.caches = []; // the latest first
    this.memory = new Map(); // sequence → its logits by position, the latest last
    this.remembered = 0;
  }

  buffer(name, size) {
    if (!(this.buffers[name]?.length >= size)) this.buffers[name] = new Float64Array(size);
    return this.buffers[name];
  }

  // { rows: the logits (Float32Array [V]) at each of `reads`, saved: the seconds that remembering them saved }.
  // tokens: [0, end); grid: { size, offset } of the blocks, of which a token sees its own and the earlier ones.
  logits(tokens, reads, grid, useCache) {
    const key = `${grid.size} ${grid.offset} ${tokens}`, V = this.vocabulary;
    const entry = this.memory.get(key) ?? { rows: new Map(), seconds: 0 };
    const missing = [...new Set(reads)].filter((position) => !entry.rows.has(position)), count = missing.length;
    if (count) {
      const began = performance.now(), logits = this.buffer("logits", count * V);
      const hidden = this.forward(tokens, missing, grid, useCache);
      rmsNorm(hidden, this.norm, this.eps, count, hidden);
      multiply(hidden, this.head, logits, count, this.norm.length, V);
      missing.forEach((position, n) => entry.rows.set(position, new Float32Array(logits.subarray(n * V, n * V + V))));
      entry.seconds += (performance.now() - began) / 1000;
      this.remembered += count * V;
    }
    this.memory.delete(key);
    this.memory.set(key, entry);
    for (const [oldest, { rows }] of this.memory) {
      if (this.remembered <= MOST_LOGITS || oldest === key) break;
      this.remembered -= rows.size * V;
      this.memory.delete(oldest);
    }
    return { rows: reads.map((position) => entry.rows.get(position)), saved: count ? 0 : entry.seconds };
  }

  // Attention probabilities of one layer, [heads, S, S] for all positions of `tokens`, as a Float32Array.
  attention(tokens, layer, grid) {
    const watch = { layer, p: new Float32Array(this.heads * tokens.length ** 2) };
    this.forward(tokens, tokens.map((_, position) => position), grid, false, watch);
    return watch.p;
  }

  // The cache to write to, and for how many positions it holds already: those of the whole blocks that the sequence
  // shares with an earlier one. That one's cache is overwritten, or copied where more than a block would be lost.
  cacheFor(tokens, { size, offset }, useCache) {
    if (!useCache) return { cache: (this.plain ??= this.emptyCache()), valid: 0 };
    let best = null, valid = 0;
    for (const cache of this.caches) {
      if (cache.size !== size || cache.offset !== offset) continue;
      let same = 0;
      while (same < tokens.length && tokens[same] === cache.tokens[same]) same++;
      const whole = Math.max(Math.floor((same + offset) / size) * size - offset, 0);
      if (!best || whole > valid) [best, valid] = [cache, whole];
    }
    const cache = best && best.tokens.length - valid <= size ? best : this.emptyCache();
    for (const part of cache === best ? [] : ["keys", "values"]) {
      cache[part].forEach((into, l) => best && into.set(best[part][l].subarray(0, valid * this.groups * this.size)));
    }
    Object.assign(cache, { size, offset, tokens: tokens.slice() });
    this.caches = [cache, ...this.caches.filter((other) => other !== cache)].slice(0, MOST_CACHES);
    return { cache, valid };
  }

  // Room for all positions; the system gives memory only to those that are written.
  emptyCache() {
    const room = () => this.layers.map(() => new Float64Array(this.positions * this.groups * this.size));
    return { keys: room(), values: room(), tokens: [] };
  }

  // Hidden states [reads.length, H] before the last norm. Of the last layer only the queries of `reads` are computed.
  // watch: { layer, p }, where one layer's attention probabilities are written.
  forward(tokens, reads, grid, useCache, watch = null) {
    const { cache, valid } = this.cacheFor(tokens, grid, useCache), H = this.norm.length, KV = this.groups * this.size;
    const from = Math.min(valid, ...reads), S = tokens.length - from, all = Array.from({ length: S }, (_, n) => from + n);
    const row = (part, n) => part.subarray(n * H, n * H + H);
    const gather = (name, part, rows) => {
      const gathered = this.buffer(name, rows.length * H);
      rows.forEach((from, n) => gathered.set(row(part, from), n * H));
      return gathered;
    };
    let x = gather("x", this.embedding, tokens.slice(from));
    this.layers.forEach((layer, l) => {
      const normed = this.buffer("normed", S * H), isLast = l === this.layers.length - 1;
      rmsNorm(x, layer.norms[0], this.eps, S, normed);
      // 1. keys and values of all positions, into the cache
      this.project(normed, layer.k, cache.keys[l].subarray(from * KV), all, true);
      this.project(normed, layer.v, cache.values[l].subarray(from * KV), all, false);
      // 2. queries, in the last layer only where it is read
      const queries = isLast ? reads : all, count = queries.length, rows = queries.map((position) => position - from);
      const q = this.buffer("q", count * this.heads * this.size);
      this.project(isLast ? gather("read", normed, rows) : normed, layer.q, q, queries, true);
      // 3. attention and MLP, each added to the stream
      const watched = watch?.layer === l ? watch.p : null;
      const mixed = this.attend(q, cache.keys[l], cache.values[l], queries, tokens.length, grid, watched);
      if (isLast) x = gather("last", x, rows);
      this.add(x, mixed, layer.o, count);
      this.mlp(x, layer, count);
    });
    return x;
  }

  // x [count, H] += y · wᵀ
  add(x, y, w, count) {
    const H = this.norm.length, added = this.buffer("added", count * H);
    multiply(y, w, added, count, w.length / H, H);
    for (let i = 0; i < count * H; i++) x[i] += added[i];
  }

  // y = x · weightᵀ + bias, the QK-norm of each head and, for queries and keys, RoPE on the pairs (i, i + size / 2).
  project(x, { weight, bias, norm }, y, positions, isRotated) {
    const H = this.norm.length, width = weight.length / H, half = this.size / 2, count = positions.length;
    multiply(x, weight, y, count, H, width);
    if (bias) for (let i = 0; i < count * width; i++) y[i] += bias[i % width];
    if (norm) rmsNorm(y, norm, this.eps, (count * width) / this.size, y);
    for (let n = 0; isRotated && n < count; n++) {
      for (let head = n * width; head < (n + 1) * width; head += this.size) {
        for (let i = head, r = positions[n] * half; i < head + half; i++, r++) {
          const first = y[i], second = y[i + half], cos = this.cos[r], sin = this.sin[r];
          y[i] = first * cos - second * sin;
          y[i + half] = second * cos + first * sin;
        }
      }
    }
  }

  // softmax(q kᵀ / √size) v: each position sees the positions up to its block's end. watched: see `attention`.
  attend(q, keys, values, positions, end, grid, watched) {
    const { heads, groups, size } = this, KV = groups * size, scale = size ** -0.5;
    const mixed = this.buffer("mixed", positions.length * heads * size), p = this.buffer("p", end);
    positions.forEach((position, n) => {
      const count = Math.min(end, (Math.floor((position + grid.offset) / grid.size) + 1) * grid.size - grid.offset);
      for (let head = 0; head < heads; head++) {
        const at = (n * heads + head) * size, group = Math.floor((head * groups) / heads) * size;
        dots(q, at, keys, group, KV, size, p, 0, count);
        let most = -Infinity, sum = 0;
        for (let k = 0; k < count; k++) if (p[k] > most) most = p[k];
        for (let k = 0; k < count; k++) sum += p[k] = Math.exp((p[k] - most) * scale);
        for (let k = 0; k < count; k++) p[k] /= sum;
        if (watched) watched.set(p.subarray(0, count), (head * positions.length + n) * end);
        weighted(p, count, values, group, KV, size, mixed, at);
      }
    });
    return mixed;
  }

  // x += down(silu(gate(x)) · up(x)), of the norm of x
  mlp(x, layer, count) {
    const H = this.norm.length, inner = layer.gate.length / H, normed = this.buffer("normed", count * H);
    const gate = this.buffer("gate", count * inner), up = this.buffer("up", count * inner);
    rmsNorm(x, layer.norms[1], this.eps, count, normed);
    multiply(normed, layer.gate, gate, count, H, inner);
    multiply(normed, layer.up, up, count, H, inner);
    for (let i = 0; i < count * inner; i++) gate[i] *= up[i] / (1 + Math.exp(-gate[i]));
    this.add(x, gate, layer.down, count);
  }
}
