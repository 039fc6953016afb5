// How rows are prepared and activated, for any level: plain loops that the compiler turns into the
// level's own instructions.  Included by each isa_*.cc, in an unnamed namespace, before tiles.inc.h.

// ------------------------------------------------------------------------------- preparation

// Whether integers of a row lie as 16-bit words: where they need them, and where the level has no
// exact dot product of such bytes.
inline bool is_wide(Format weights, RowFormat rows) {
  return rows == RowFormat::int16 || !Simd::has_byte_dot(weights);
}

inline size_t integer_bytes(Format weights, RowFormat rows) { return is_wide(weights, rows) ? 2 : 1; }

inline bool is_narrow(Format weights, RowFormat rows) {
  return Simd::kHasBf16 && weights == Format::bf16 && rows == RowFormat::bf16;
}

size_t row_bytes(Format weights, RowFormat rows, size_t columns) {
  const size_t padded = padded_columns(weights, columns);
  if (is_integer(rows))
    return round_up(padded * integer_bytes(weights, rows) + padded / kRowBlock * 8, 64);
  return round_up(padded * (is_narrow(weights, rows) ? 2 : 4), 64);
}

bool row_is_plain(Format weights, RowFormat rows, size_t columns) {
  return rows == RowFormat::f32 &&
         (is_quantized(weights) || padded_columns(weights, columns) == columns);
}

// The integers of one block, in order as bytes.  Words lie so that a pair of them meets bytes 0 and 2
// or 1 and 3 of the four that hold four columns of a weight: c, c + 2, c + 1, c + 3.
inline void store_integers(bool wide, const int32_t* q, uint8_t* to) {
  if (!wide) {
    for (size_t c = 0; c < kRowBlock; ++c) to[c] = uint8_t(q[c]);
    return;
  }
  // Two columns at a time: the halves of c and c + 2, and of c + 1 and c + 3.
  constexpr uint64_t kLow = 0x0000ffff0000ffff;
  uint64_t pairs[kRowBlock / 2], words[kRowBlock / 4];
  __builtin_memcpy(pairs, q, sizeof pairs);
  for (size_t n = 0; n < kRowBlock / 4; ++n)
    words[n] = (pairs[2 * n] & kLow) | (pairs[2 * n + 1] & kLow) << 16;
  __builtin_memcpy(to, words, sizeof words);
}

// One block of 32 columns as integers: a scale of max|x| over the number of steps, x / scale rounded,
// ties to even.
inline void prepare_integers(Format weights, RowFormat rows, size_t padded, size_t first,
                             const float* values, uint8_t* row) {
  const float steps = rows == RowFormat::int8 ? 127.0f : 32767.0f;
  const size_t block = first / kRowBlock, blocks = padded / kRowBlock;
  float* scales = reinterpret_cast<float*>(row + padded * integer_bytes(weights, rows));
  int32_t* offsets = reinterpret_cast<int32_t*>(scales + blocks);
  // The bits of |x| are ordered as the numbers are, with infinity and NaN at the end.
  uint32_t largest = 0;
  for (size_t c = 0; c < kRowBlock; ++c) {
    const uint32_t magnitude = bits_of_float(values[c]) & 0x7fffffff;
    largest = magnitude > largest ? magnitude : largest;
  }
  int32_t q[kRowBlock] = {};
  float scale = float_of_bits(largest) / steps;
  const bool is_number = largest < 0x7f800000;
  if (!is_number) scale = float_of_bits(0x7fc00000);
  if (is_number && scale < 1.17549435e-38f) scale = 0.0f;
  if (is_number && scale != 0.0f)
    for (size_t c = 0; c < kRowBlock; ++c) {
      // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
      const float shifted = values[c] / scale + 12582912.0f;
      q[c] = int32_t(bits_of_float(shifted)) - 0x4b400000;
    }
  int32_t sum = 0;
  for (size_t c = 0; c < kRowBlock; ++c) sum += q[c];
  scales[block] = scale;
  offsets[block] = -middle(weights) * sum;
  store_integers(is_wide(weights, rows), q, row + first * integer_bytes(weights, rows));
}

void prepare(Format weights, RowFormat rows, size_t columns, size_t first, size_t count,
             const float* x, void* row) {
  const size_t padded = padded_columns(weights, columns);
  if (is_integer(rows)) {
    uint8_t* const to = static_cast<uint8_t*>(row);
    size_t c = 0;
    for (; c + kRowBlock <= count; c += kRowBlock)
      prepare_integers(weights, rows, padded, first + c, x + c, to);
    if (c == count) return;
    float last[kRowBlock] = {};
    __builtin_memcpy(last, x + c, (count - c) * sizeof(float));
    prepare_integers(weights, rows, padded, first + c, last, to);
    return;
  }
  const size_t end = first + count == columns ? padded : first + count;
  if (is_narrow(weights, rows)) {
    uint16_t* to = static_cast<uint16_t*>(row) + first;
    for (size_t c = 0; c < count; ++c) to[c] = bfloat16_of_float(x[c]);
    for (size_t c = count; first + c < end; ++c) to[c] = 0;
    return;
  }
  float* to = static_cast<float*>(row) + first;
  if (rows == RowFormat::bf16)
    for (size_t c = 0; c < count; ++c)
      to[c] = float_of_bits(uint32_t(bfloat16_of_float(x[c])) << 16);
  else
    for (size_t c = 0; c < count; ++c) to[c] = x[c];
  for (size_t c = count; first + c < end; ++c) to[c] = 0.0f;
}

// ------------------------------------------------------------------------------- activation

// e^x within 2 ulp: e^x = 2^n e^r, |r| <= ln(2)/2, the polynomial of Cephes' expf (S. L. Moshier).
// 0 below -88, infinity from 88.4 on, NaN for NaN.
inline float exponential(float x) {
  x = x < -88.0f ? -88.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * float_of_bits((bits_of_float(shifted) << 23) + 0x3f800000);
}

inline float times_sigmoid(float x, float alpha) { return x / (1.0f + exponential(-alpha * x)); }

inline float gelu_tanh(float x) {
  const float inner = 0.797884561f * (x + 0.044715f * x * x * x);
  const float tanh = 1.0f - 2.0f / (1.0f + exponential(2.0f * inner));
  return 0.5f * x * (1.0f + tanh);
}

template <class Function>
inline void each(Function function, const float* __restrict gate, const float* __restrict value,
                 size_t n, float* __restrict out) {
  if (value)
    for (size_t i = 0; i < n; ++i) out[i] = function(gate[i]) * value[i];
  else
    for (size_t i = 0; i < n; ++i) out[i] = function(gate[i]);
}

void activate(Activation activation, float alpha, float limit, const float* __restrict gate,
              const float* __restrict value, size_t n, float* __restrict out) {
  switch (activation) {
    case Activation::silu:
      return each([](float g) { return times_sigmoid(g, 1.0f); }, gate, value, n, out);
    case Activation::gelu:
      return each([](float g) { return 0.5f * g * (1.0f + __builtin_erff(g * 0.707106781f)); },
                  gate, value, n, out);
    case Activation::gelu_tanh:
      return each(gelu_tanh, gate, value, n, out);
    case Activation::relu:
      return each([](float g) { return g < 0.0f ? 0.0f : g; }, gate, value, n, out);
    case Activation::relu2:
      return each([](float g) { return g < 0.0f ? 0.0f : g * g; }, gate, value, n, out);
    case Activation::identity:
      return each([](float g) { return g; }, gate, value, n, out);
    case Activation::swiglu_clamped:
      // A NaN passes every comparison on the side that keeps it.
      for (size_t i = 0; i < n; ++i) {
        const float g = gate[i] > limit ? limit : gate[i];
        const float v = value[i] > limit ? limit : value[i] < -limit ? -limit : value[i];
        out[i] = times_sigmoid(g, alpha) * (v + 1.0f);
      }
      return;
  }
}
