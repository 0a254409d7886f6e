// Weights from a file, and matrix products and norms in float64, which is as fast as float32 here. All is row-major.

function fail(message) {
  throw new Error(message);
}

// Tensor name → numbers (Float64Array) of a safetensors file (an ArrayBuffer) in float16 or float32.
function readSafetensors(buffer) {
  const size = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, size)));
  delete header.__metadata__;
  const halves = Float64Array.from({ length: 2 ** 16 }, (_, bits) => {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
  });
  const tensors = Object.entries(header).map(([name, { dtype, data_offsets: [from, to] }]) => {
    const bytes = buffer.slice(8 + size + from, 8 + size + to);
    if (dtype === "F16") return [name, Float64Array.from(new Uint16Array(bytes), (bits) => halves[bits])];
    if (dtype === "F32") return [name, Float64Array.from(new Float32Array(bytes))];
    return fail(`weights: ${name} is ${dtype}; the page reads F16 and F32`);
  });
  return Object.fromEntries(tensors);
}

// y [S, O] = x [S, I] · wᵀ [O, I], four rows by four outputs at a time: each number is read once for four products.
function multiply(x, w, y, S, I, O) {
  const rows = S - (S % 4), outputs = O - (O % 4);
  for (let o = 0; o < outputs; o += 4) {
    for (let s = 0; s < rows; s += 4) {
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      let c0 = 0, c1 = 0, c2 = 0, c3 = 0, d0 = 0, d1 = 0, d2 = 0, d3 = 0;
      for (let i = s * I, j = o * I, end = i + I; i < end; i++, j++) {
        const xa = x[i], xb = x[i + I], xc = x[i + 2 * I], xd = x[i + 3 * I];
        const w0 = w[j], w1 = w[j + I], w2 = w[j + 2 * I], w3 = w[j + 3 * I];
        a0 += xa * w0; a1 += xa * w1; a2 += xa * w2; a3 += xa * w3;
        b0 += xb * w0; b1 += xb * w1; b2 += xb * w2; b3 += xb * w3;
        c0 += xc * w0; c1 += xc * w1; c2 += xc * w2; c3 += xc * w3;
        d0 += xd * w0; d1 += xd * w1; d2 += xd * w2; d3 += xd * w3;
      }
      const at = s * O + o;
      y[at] = a0; y[at + 1] = a1; y[at + 2] = a2; y[at + 3] = a3;
      y[at + O] = b0; y[at + O + 1] = b1; y[at + O + 2] = b2; y[at + O + 3] = b3;
      y[at + 2 * O] = c0; y[at + 2 * O + 1] = c1; y[at + 2 * O + 2] = c2; y[at + 2 * O + 3] = c3;
      y[at + 3 * O] = d0; y[at + 3 * O + 1] = d1; y[at + 3 * O + 2] = d2; y[at + 3 * O + 3] = d3;
    }
  }
  for (let s = rows; s < S; s++) dots(x, s * I, w, 0, I, I, y, s * O, O);
  if (outputs < O) for (let s = 0; s < rows; s++) dots(x, s * I, w, outputs * I, I, I, y, s * O + outputs, O - outputs);
}

// y[out + n] = x[from …] · w[first + n · stride …] over `size` numbers, for n < count; four at a time.
function dots(x, from, w, first, stride, size, y, out, count) {
  let n = 0;
  for (; n + 4 <= count; n += 4) {
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = from, j = first + n * stride, end = from + size; i < end; i++, j++) {
      const value = x[i];
      a += value * w[j]; b += value * w[j + stride]; c += value * w[j + 2 * stride]; d += value * w[j + 3 * stride];
    }
    y[out + n] = a; y[out + n + 1] = b; y[out + n + 2] = c; y[out + n + 3] = d;
  }
  for (; n < count; n++) {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += x[from + i] * w[first + n * stride + i];
    y[out + n] = sum;
  }
}

// out[at + d] = Σ_k p[k] · v[first + k · stride + d] for d < size; four at a time (a head's size is a multiple of 2).
function weighted(p, count, v, first, stride, size, out, at) {
  for (let d = 0; d < size; d += 4) {
    let a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    for (let k = 0, j = first + d; k < count; k++, j += stride) {
      const share = p[k];
      a0 += share * v[j]; a1 += share * v[j + 1]; a2 += share * v[j + 2]; a3 += share * v[j + 3];
    }
    out[at + d] = a0; out[at + d + 1] = a1;
    if (d + 2 < size) { out[at + d + 2] = a2; out[at + d + 3] = a3; }
  }
}

// x / sqrt(mean(x²) + eps) · gain, for each `gain.length` numbers of x; out may be x.
function rmsNorm(x, gain, eps, count, out) {
  const size = gain.length;
  for (let at = 0; at < count * size; at += size) {
    let sum = 0;
    for (let i = 0; i < size; i++) sum += x[at + i] * x[at + i];
    const scale = 1 / Math.sqrt(sum / size + eps);
    for (let i = 0; i < size; i++) out[at + i] = x[at + i] * scale * gain[i];
  }
}
