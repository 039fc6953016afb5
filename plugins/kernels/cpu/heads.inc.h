// Heads of one token, for any level: plain loops that the compiler turns into the level's own
// instructions.  Included by each isa_*.cc, in an unnamed namespace.

// The mean of the squares, summed in 16 lanes.
inline float mean_square(const float* __restrict x, size_t n) {
  float lanes[16] = {}, sum = 0;
  size_t c = 0;
  for (; c + 16 <= n; c += 16)
    for (size_t j = 0; j < 16; ++j) lanes[j] += x[c + j] * x[c + j];
  for (; c < n; ++c) lanes[0] += x[c] * x[c];
  for (size_t j = 0; j < 16; ++j) sum += lanes[j];
  return sum / float(n);
}

inline void turn_halves(float* __restrict first, float* __restrict second,
                        const float* __restrict cos, const float* __restrict sin, size_t n) {
  for (size_t c = 0; c < n; ++c) {
    const float a = first[c], b = second[c];
    first[c] = a * cos[c] - b * sin[c];
    second[c] = b * cos[c] + a * sin[c];
  }
}

void turn_heads(const TokenHeads& token) {
  const size_t size = token.size, half = token.half;
  for (size_t n = 0; n < token.heads; ++n) {
    const float* __restrict x = token.x + n * size;
    float* __restrict y = token.y + n * size;
    if (token.norm) {
      const float root = __builtin_sqrtf(mean_square(x, size) + token.epsilon);
      const float factor = 1.0f / root;
      for (size_t c = 0; c < size; ++c) y[c] = x[c] * factor * token.norm[c];
    } else {
      __builtin_memcpy(y, x, size * sizeof(float));
    }
    turn_halves(y, y + half, token.cos, token.sin, half);
  }
}
