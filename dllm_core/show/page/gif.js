// GIF89a of canvas frames: one palette of 256 colours (the most frequent ones), LZW as the format describes it.

function gif(frames, milliseconds) {
  const [{ width, height }] = frames;
  const palette = paletteOf(frames);
  const bytes = [...new TextEncoder().encode("GIF89a"), ...short(width), ...short(height), 0xf7, 0, 0];
  for (let i = 0; i < 256; i += 1) bytes.push(...(palette.colors[i] ?? [0, 0, 0]));
  bytes.push(0x21, 0xff, 11, ...new TextEncoder().encode("NETSCAPE2.0"), 3, 1, 0, 0, 0); // for ever
  frames.forEach((frame, i) => {
    const hundredths = Math.round(milliseconds / 10) * (i === frames.length - 1 ? 4 : 1);
    bytes.push(0x21, 0xf9, 4, 0, ...short(hundredths), 0, 0, 0x2c, 0, 0, 0, 0, ...short(width), ...short(height), 0, 8);
    const data = lzw(palette.indices(frame));
    for (let at = 0; at < data.length; at += 255) {
      const block = data.slice(at, at + 255);
      bytes.push(block.length, ...block);
    }
    bytes.push(0);
  });
  return Uint8Array.from([...bytes, 0x3b]);
}

const short = (value) => [value & 255, value >> 8];
const coarse = (data, i) => ((data[i] >> 3) << 10) | ((data[i + 1] >> 3) << 5) | (data[i + 2] >> 3); // 15 bits

function paletteOf(frames) {
  const counts = new Map();
  for (const { data } of frames) for (let i = 0; i < data.length; i += 4) counts.set(coarse(data, i), (counts.get(coarse(data, i)) ?? 0) + 1);
  const codes = [...counts].sort(([, a], [, b]) => b - a).slice(0, 256).map(([code]) => code);
  const colors = codes.map((code) => [code >> 10, (code >> 5) & 31, code & 31].map((five) => Math.round((five * 255) / 31)));
  const nearest = new Map(codes.map((code, i) => [code, i]));
  const find = (code) => {
    const far = (other) => [10, 5, 0].reduce((sum, bits) => sum + (((code >> bits) & 31) - ((other >> bits) & 31)) ** 2, 0);
    if (!nearest.has(code)) nearest.set(code, codes.reduce((best, other, i) => (far(other) < far(codes[best]) ? i : best), 0));
    return nearest.get(code);
  };
  return { colors, indices: ({ data }) => Uint8Array.from({ length: data.length / 4 }, (_, i) => find(coarse(data, 4 * i))) };
}

function lzw(pixels) {
  const bytes = [];
  let buffer = 0, bits = 0, size = 9, next = 258, table = new Map();
  const write = (code) => {
    buffer |= code << bits;
    bits += size;
    for (; bits >= 8; bits -= 8, buffer >>>= 8) bytes.push(buffer & 255);
  };
  write(256);
  let prefix = pixels[0];
  for (const pixel of pixels.subarray(1)) {
    const key = (prefix << 8) | pixel;
    if (table.has(key)) {
      prefix = table.get(key);
      continue;
    }
    write(prefix);
    if (next === 4096) {
      write(256);
      [size, next, table] = [9, 258, new Map()];
    } else {
      if (next === 1 << size) size += 1;
      table.set(key, next++);
    }
    prefix = pixel;
  }
  write(prefix);
  write(257);
  return bits ? [...bytes, buffer & 255] : bytes;
}
