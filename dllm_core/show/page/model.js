// The Transformer of dllm_core/model.py in float64: RMSNorm, QK-norm, RoPE, grouped heads, SwiGLU, with a cache of keys and
// values, and a memory of logits. One sequence at a time; positions count from 0.

const MOST_CACHES = 8, MOST_LOGITS = 2 ** 24; // sequences whose keys are kept; numbers of logits kept, 64 MB

function fail(message) {
  throw new Error(message);
}

// name → { shape, data (Float64Array) } of a safetensors file (an ArrayBuffer) in float16 or float32.
function readSafetensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  delete header.__metadata__;
  const halves = Float64Array.from({ length: 2 ** 16 }, (_, bits) => {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
  return Object.fromEntries(Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => {
    const bytes = buffer.slice(8 + size + from, 8 + size + to);
    if (dtype === "F16") return [name, { shape, data: Float64Array.from(new Uint16Array(bytes), (bits) => halves[bits]) }];
    if (dtype === "F32") return [name, { shape, data: Float64Array.from(new Float32Array(bytes)) }];
    throw new Error(`weights: ${name} is ${dtype}; the page reads F16 and F32`);
  }));
}

class Transformer {
  // config: of config.json; buffer: of model.safetensors.
  constructor(config, buffer) {
    const tensors = readSafetensors(buffer), heads = config.num_attention_heads;
    const get = (name) => tensors[name]?.data ?? fail(`weights: no tensor ${name}`);
    if (config.hidden_act !== "silu") fail(`config: hidden_act is ${config.hidden_act}; the page computes silu`);
    this.heads = heads;
    this.groups = config.num_key_value_heads ?? heads;
    this.size = config.head_dim ?? config.hidden_size / heads;
    this.eps = config.rms_norm_eps;
    this.positions = config.max_position_embeddings;
    this.embedding = get("model.embed_tokens.weight");
    this.head = config.tie_word_embeddings ? this.embedding : get("lm_head.weight");
    this.vocabulary = config.vocab_size;
    this.norm = get("model.norm.weight");
    this.layers = Array.from({ length: config.num_hidden_layers }, (_, l) => {
      const of = (name) => get(`model.layers.${l}.${name}.weight`), extra = (name) => tensors[`model.layers.${l}.self_attn.${name}`]?.data;
      const [q, k, v, o] = [..."qkvo"].map((name) => of(`self_attn.${name}_proj`));
      const [gate, up, down] = ["gate", "up", "down"].map((name) => of(`mlp.${name}_proj`));
      const biases = [..."qkv"].map((name) => extra(`${name}_proj.bias`)), norms = [..."qk"].map((name) => extra(`${name}_norm.weight`));
      return { q, k, v, o, gate, up, down, biases, norms, first: of("input_layernorm"), second: of("post_attention_layernorm") };
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
    const key = `${grid.size} ${grid.offset} ${tokens}`, entry = this.memory.get(key) ?? { rows: new Map(), seconds: 0 };
    const missing = [...new Set(reads)].filter((position) => !entry.rows.has(position)), V = this.vocabulary;
    if (missing.length) {
      const began = performance.now(), count = missing.length, hidden = this.forward(tokens, missing, grid, useCache);
      const logits = this.buffer("logits", count * V);
      rmsNorm(hidden, this.norm, this.eps, count, hidden);
      multiply(hidden, this.head, logits, count, this.norm.length, V);
      missing.forEach((position, n) => entry.rows.set(position, new Float32Array(logits.subarray(n * V, (n + 1) * V))));
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
    return { rows: reads.map((position) => entry.rows.get(position)), saved: missing.length ? 0 : entry.seconds };
  }

  // Attention probabilities of one layer, [heads, S, S] for all positions of `tokens`, as a Float32Array.
  attention(tokens, layer, grid) {
    const watch = { layer, p: new Float32Array(this.heads * tokens.length ** 2) };
    this.forward(tokens, tokens.map((_, position) => position), grid, false, watch);
    return watch.p;
  }

  // The cache to write to, and for how many positions it holds already: those of the whole blocks that the sequence shares
  // with an earlier one. That one's cache is overwritten, or copied where more than its last block would be lost.
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
    const from = Math.min(valid, ...reads), all = tokens.slice(from).map((_, n) => from + n);
    let x = this.buffer("x", all.length * H);
    all.forEach((position, n) => x.set(this.embedding.subarray(tokens[position] * H, (tokens[position] + 1) * H), n * H));
    this.layers.forEach((layer, l) => {
      const S = all.length, normed = this.buffer("normed", S * H);
      rmsNorm(x, layer.first, this.eps, S, normed);
      // 1. keys and values of all positions, into the cache
      const keys = cache.keys[l].subarray(from * KV), values = cache.values[l].subarray(from * KV);
      this.project(normed, layer.k, layer.biases[1], keys, S, layer.norms[1], all);
      this.project(normed, layer.v, layer.biases[2], values, S);
      // 2. queries, in the last layer of the positions that are read alone
      const rows = l === this.layers.length - 1 ? reads : all, count = rows.length;
      const pick = (name, part) => {
        const picked = this.buffer(name, count * H);
        rows.forEach((position, n) => picked.set(part.subarray((position - from) * H, (position - from + 1) * H), n * H));
        return picked;
      };
      const [input, residual] = rows === all ? [normed, x] : [pick("input", normed), pick("residual", x)];
      const q = this.buffer("q", count * this.heads * this.size);
      this.project(input, layer.q, layer.biases[0], q, count, layer.norms[0], rows);
      // 3. attention, and the MLP
      const mixed = this.attend(q, cache.keys[l], cache.values[l], rows, tokens.length, grid, watch?.layer === l ? watch.p : null);
      const added = this.buffer("added", count * H);
      multiply(mixed, layer.o, added, count, this.heads * this.size, H);
      for (let i = 0; i < count * H; i++) residual[i] += added[i];
      this.mlp(residual, layer, count);
      x = residual;
    });
    return x;
  }

  // y = x · wᵀ + bias, then per head the norm's gain and, where positions are given, RoPE on the pairs (i, i + size / 2).
  project(x, w, bias, y, count, gain, positions) {
    const H = this.norm.length, width = w.length / H, half = this.size / 2;
    multiply(x, w, y, count, H, width);
    if (bias) for (let i = 0; i < count * width; i++) y[i] += bias[i % width];
    if (gain) rmsNorm(y, gain, this.eps, (count * width) / this.size, y);
    for (let n = 0; positions && n < count; n++) {
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

  // x += down(silu(gate(x)) · up(x)), of the norm of x.
  mlp(x, layer, count) {
    const H = this.norm.length, inner = layer.gate.length / H, normed = this.buffer("input", count * H);
    const gate = this.buffer("gate", count * inner), up = this.buffer("up", count * inner), added = this.buffer("added", count * H);
    rmsNorm(x, layer.second, this.eps, count, normed);
    multiply(normed, layer.gate, gate, count, H, inner);
    multiply(normed, layer.up, up, count, H, inner);
    for (let i = 0; i < count * inner; i++) gate[i] *= up[i] / (1 + Math.exp(-gate[i]));
    multiply(gate, layer.down, added, count, inner, H);
    for (let i = 0; i < count * H; i++) x[i] += added[i];
  }
}
