// Attention to a block of keys, for any level: included by each isa_*.cc behind tiles.inc.h, in an
// unnamed namespace.
//
// Few queries meet each key as it lies, as dot products.  Many are a product of matrices, for which
// the keys are turned once so that 16 of them lie side by side, as a panel.  Values lie as the
// second product wants them: a panel is 16 neighbouring columns of them.

constexpr size_t kFewQueries = 8;

constexpr float kUnseen = -__builtin_inff();

// out [MR][NP * 16] (+)= a [MR][units] times b [units][NP * 16].  Rows of b lie `step` floats apart,
// its panels `panel`.
struct Product {
  const float* a;
  size_t a_stride;
  const float* b;
  size_t step, panel;
  size_t units;
  float* out;
  size_t out_stride;
  bool begins;
};

template <int MR, int NP>
void product_tile(const Product& call) {
  F sum[MR][NP][kVectors];
  float* const out = call.out;
  const size_t stride = call.out_stride;
  for_registers<MR, NP>([&](auto m, auto p, auto v) MOE_INLINE {
    const float* at = out + m * stride + p * 16 + v * Simd::kLanes;
    sum[m][p][v] = call.begins ? Simd::zero() : Simd::load(at);
  });
  const float *a = call.a, *b = call.b;
  const size_t a_stride = call.a_stride, panel = call.panel, step = call.step;
  for (size_t unit = 0; unit < call.units; ++unit, b += step)
    unrolled<NP>([&](auto p) MOE_INLINE {
      F w[kVectors];
      unrolled<kVectors>([&](auto v) MOE_INLINE {
        w[v] = Simd::load(b + p * panel + v * Simd::kLanes);
      });
      unrolled<MR>([&](auto m) MOE_INLINE {
        const F x = Simd::broadcast(a[m * a_stride + unit]);
        unrolled<kVectors>([&](auto v) MOE_INLINE {
          sum[m][p][v] = Simd::fma(x, w[v], sum[m][p][v]);
        });
      });
    });
  for_registers<MR, NP>([&](auto m, auto p, auto v) MOE_INLINE {
    Simd::store(out + m * stride + p * 16 + v * Simd::kLanes, sum[m][p][v]);
  });
}

struct ProductTiles {
  static constexpr size_t kMaxRows = Simd::kMaxRows;
  Product whole;

  static size_t panels_of(size_t rows) { return Simd::panels_of(int(rows)); }

  void run(const Place& place) const {
    Product call = whole;
    call.a += place.first_row * call.a_stride;
    call.b += place.first_panel * call.panel;
    call.out += place.first_row * call.out_stride + place.first_panel * 16;
    pick<Simd::kMaxRows>(place, call);
  }

  template <int MR>
  static void pick(const Place& place, const Product& call) {
    if (place.rows == MR)
      return place.panels == 1 ? product_tile<MR, 1>(call) : product_tile<MR, kPanelsOf<MR>>(call);
    if constexpr (MR > 1) pick<MR - 1>(place, call);
  }
};

// ------------------------------------------------------------------------------- scores

// out [n] = Simd::sum(x [n]); S is Simd, named late: not every level sums several at once.
template <class S, size_t N>
MOE_INLINE inline void sum_each(const F (&x)[N], float* out) {
  if constexpr (S::kSumsAtOnce && N == S::kSums)
    S::sum_each(x, out);
  else
    unrolled<N>([&](auto n) MOE_INLINE { out[n] = S::sum(x[n]); });
}

// scores [MR][kAttentionKeys] of MR queries and NK neighbouring keys.
template <int MR, int NK>
void dot_tile(const AttentionBlock& block, size_t query, size_t key, float* scores) {
  F sum[MR * NK];
  unrolled<MR * NK>([&](auto i) MOE_INLINE { sum[i] = Simd::zero(); });
  const size_t columns = block.key_columns;
  const float* q = block.queries + query * columns;
  const float* k = block.keys + key * block.key_stride;
  for (size_t c = 0; c < columns; c += Simd::kLanes) {
    F keys[NK];
    unrolled<NK>([&](auto n) MOE_INLINE { keys[n] = Simd::load(k + n * block.key_stride + c); });
    unrolled<MR>([&](auto m) MOE_INLINE {
      const F x = Simd::load(q + m * columns + c);
      unrolled<NK>([&](auto n) MOE_INLINE {
        sum[m * NK + n] = Simd::fma(x, keys[n], sum[m * NK + n]);
      });
    });
  }
  float sums[MR * NK];
  sum_each<Simd>(sum, sums);
  unrolled<MR>([&](auto m) MOE_INLINE {
    __builtin_memcpy(scores + (query + m) * kAttentionKeys + key, sums + m * NK, NK * sizeof(float));
  });
}

// Asks for a row of floats.
inline void fetch(const float* row, size_t columns) {
  for (size_t c = 0; c < columns; c += 16) Simd::prefetch(reinterpret_cast<const uint8_t*>(row + c));
}

template <int MR>
void dot_rows(const AttentionBlock& block, size_t query, float* scores) {
  constexpr int kKeys = Simd::kSums / MR;
  // Rows of one head lie apart by those of all others, which no CPU guesses.
  constexpr size_t kAhead = 16;
  size_t key = 0;
  for (; key + kKeys <= block.count; key += kKeys) {
    if (query == 0)
      for (size_t n = key; n < key + kKeys; ++n) {
        fetch(block.keys + (n + kAhead) * block.key_stride, block.key_columns);
        fetch(block.values + n * block.value_stride, block.value_columns);
      }
    dot_tile<MR, kKeys>(block, query, key, scores);
  }
  for (; key < block.count; ++key) dot_tile<MR, 1>(block, query, key, scores);
}

void scores_of_few(const AttentionBlock& block, float* scores) {
  size_t query = 0;
  for (; query + 4 <= block.rows; query += 4) dot_rows<4>(block, query, scores);
  for (; query + 2 <= block.rows; query += 2) dot_rows<2>(block, query, scores);
  for (; query < block.rows; ++query) dot_rows<1>(block, query, scores);
}

// Panels of 16 keys, [columns][16]; keys behind the last are 0.
void turn_keys(const AttentionBlock& block, float* turned) {
  const size_t columns = block.key_columns;
  for (size_t first = 0; first < block.count; first += 16, turned += columns * 16) {
    const size_t here = least(16, block.count - first);
    for (size_t c = 0; c < columns; c += 16) {
      float tile[16][16] = {};
      for (size_t n = 0; n < here; ++n)
        __builtin_memcpy(tile[n], block.keys + (first + n) * block.key_stride + c, 64);
      for (size_t i = 0; i < 16; ++i)
        for (size_t n = 0; n < 16; ++n) turned[(c + i) * 16 + n] = tile[n][i];
    }
  }
}

void scores_of_many(const AttentionBlock& block, float* turned, float* scores) {
  turn_keys(block, turned);
  const size_t columns = block.key_columns;
  const ProductTiles tiles{
      {block.queries, columns, turned, 16, columns * 16, columns, scores, kAttentionKeys, true}};
  for_tiles(tiles, block.rows, round_up(block.count, 16) / 16);
}

// ------------------------------------------------------------------------------- weights

// Of n numbers, a multiple of 16, in 16 lanes.
inline float largest_of(const float* x, size_t n) {
  float lanes[16];
  for (size_t j = 0; j < 16; ++j) lanes[j] = x[j];
  for (size_t i = 16; i < n; i += 16)
    for (size_t j = 0; j < 16; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
  float largest = lanes[0];
  for (size_t j = 1; j < 16; ++j) largest = lanes[j] > largest ? lanes[j] : largest;
  return largest;
}

inline float sum_of(const float* x, size_t n) {
  float lanes[16] = {};
  for (size_t i = 0; i < n; i += 16)
    for (size_t j = 0; j < 16; ++j) lanes[j] += x[i + j];
  float sum = 0;
  for (size_t j = 0; j < 16; ++j) sum += lanes[j];
  return sum;
}

// The scores of one row become weights; what the row has mixed so far is scaled to the new largest.
void weigh(const AttentionBlock& block, size_t row, float* scores) {
  const size_t padded = round_up(block.count, 16);
  for (size_t k = block.count; k < padded; ++k) scores[k] = kUnseen;
  if (block.seen) {
    const uint8_t* seen = block.seen[row];
    for (size_t k = 0; k < block.count; ++k) scores[k] = seen[k] ? scores[k] : kUnseen;
  }
  const float before = block.largest[row], here = largest_of(scores, padded);
  const float largest = here > before ? here : before;
  if (largest == kUnseen) {
    for (size_t k = 0; k < padded; ++k) scores[k] = 0.0f;
    return;
  }
  for (size_t k = 0; k < padded; ++k) scores[k] = exponential(scores[k] - largest);
  const float sum = sum_of(scores, padded);
  if (largest == before) {
    block.sum[row] += sum;
    return;
  }
  const float factor = exponential(before - largest);
  float* mixed = block.mixed + row * block.value_columns;
  for (size_t c = 0; c < block.value_columns; ++c) mixed[c] *= factor;
  block.sum[row] = block.sum[row] * factor + sum;
  block.largest[row] = largest;
}

void attend(const AttentionBlock& block) {
  float* scores = static_cast<float*>(block.work);
  float* turned = scores + block.rows * kAttentionKeys;
  if (block.rows <= kFewQueries)
    scores_of_few(block, scores);
  else
    scores_of_many(block, turned, scores);
  for (size_t row = 0; row < block.rows; ++row) weigh(block, row, scores + row * kAttentionKeys);
  const ProductTiles tiles{{scores, kAttentionKeys, block.values, block.value_stride, 16,
                            block.count, block.mixed, block.value_columns, false}};
  for_tiles(tiles, block.rows, block.value_columns / 16);
}
