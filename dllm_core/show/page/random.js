// PyTorch's random numbers on a CPU, so that a sampled decoding is the same in both: the Mersenne Twister MT19937
// (Matsumoto and Nishimura 1998) and how `torch.rand` makes float64 and float32 of its 32-bit numbers.

const TWISTER = 624, HALF = 397;

class Generator {
  // seed: an integer from 0; PyTorch uses its low 32 bits.
  constructor(seed) {
    this.state = new Uint32Array(TWISTER);
    this.state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
    for (let i = 1; i < TWISTER; i++) {
      const before = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
    this.next = TWISTER;
  }

  twist() {
    const state = this.state;
    for (let i = 0; i < TWISTER; i++) {
      const mixed = (state[i] & 0x80000000) | (state[(i + 1) % TWISTER] & 0x7fffffff);
      state[i] = state[(i + HALF) % TWISTER] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  uint32() {
    if (this.next === TWISTER) this.twist();
    let bits = this.state[this.next++];
    bits ^= bits >>> 11;
    bits ^= (bits << 7) & 0x9d2c5680;
    bits ^= (bits << 15) & 0xefc60000;
    return (bits ^ (bits >>> 18)) >>> 0;
  }

  // One number of `torch.rand(dtype=float64)`: 53 of 64 bits, of which the first number gives the upper 32.
  double() {
    const upper = this.uint32() & 0x1fffff;
    return (upper * 2 ** 32 + this.uint32()) * 2 ** -53;
  }

  // One number of `torch.rand(dtype=float32)`: 24 of 32 bits.
  float() {
    return (this.uint32() & 0xffffff) * 2 ** -24;
  }
}
