// Rows times panels, for any level: included by each isa_*.cc behind its `Simd`, in an unnamed
// namespace, so that no copy compiled for one CPU can stand in for another's.
//
// A *tile* is MR rows times NP panels with all sums in registers.  `Simd` names the registers:
// kVectors of them hold the 16 rows of a panel.  Every sum runs over the columns in their order
// (bfloat16 dot products: in pairs), alone in its lane, so that it does not depend on the tile.

constexpr int kVectors = Simd::kVectors;
using F = Simd::F;
using I = Simd::I;

// Columns of a block: 16 columns of floats x 512 are 16 KiB of bfloat16 panel and, for 6 rows,
// 12 KiB of rows, together within an L1 of 32 KiB.
constexpr size_t kColumnBlock = 512;

// Which lines of the weights a tile asks for while it computes.  One tile alone reads a panel as a
// stream and asks kStreamAhead bytes ahead of itself, at the end in the next panels; the first of
// several tiles that share a block of a panel would wait for memory and the others would not, so each
// asks for its share of the block that comes next.
struct Ahead {
  ptrdiff_t offset;  // of the first line, from the tile's place in each of its panels
  size_t step;       // of the lines, for 64 bytes of a panel
  ptrdiff_t turn;    // how much farther lines behind a panel's own lie; 0: no tile of the job follows

  static constexpr size_t kStreamAhead = 2048;

  bool is_stream() const { return step == 64; }

  // For tile `tile` of `tiles` over a block of `bytes`; the next block lies at `next`, and is one of
  // this job where it `follows`.
  static Ahead of(size_t tile, size_t tiles, size_t bytes, ptrdiff_t next, bool follows) {
    if (tiles == 1)
      return {kStreamAhead, 64, follows && bytes > kStreamAhead ? next - ptrdiff_t(bytes) : 0};
    return {next + ptrdiff_t(bytes / tiles * tile), 64 / tiles, 0};
  }
};

// The same for every register of a tile: rows, panels, and the vectors of a panel's 16 rows.
template <int MR, int NP, class Body>
MOE_INLINE inline void for_registers(const Body& body) {
  unrolled<MR * NP * kVectors>([&](auto i) MOE_INLINE {
    body(std::integral_constant<size_t, i / (NP * kVectors)>{},
         std::integral_constant<size_t, i / kVectors % NP>{},
         std::integral_constant<size_t, i % kVectors>{});
  });
}

// ------------------------------------------------------------------------------- floats

// A step is what one line of a panel offers: kUnits times 16 weights, each of which meets 4 bytes
// of a row (a float, or a pair of bfloat16).

struct F32Step {
  static constexpr Format kFormat = Format::f32;
  static constexpr size_t kUnits = 1, kBytes = 64, kColumnsPerUnit = 1;
  template <size_t kUnit>
  static void load(const uint8_t* at, F (&w)[kVectors]) {
    Simd::load_f32(at, w);
  }
  static F multiply_add(F x, F w, F sum) { return Simd::fma(x, w, sum); }
};

struct F16Step {
  static constexpr Format kFormat = Format::f16;
  static constexpr size_t kUnits = 1, kBytes = 32, kColumnsPerUnit = 1;
  template <size_t kUnit>
  static void load(const uint8_t* at, F (&w)[kVectors]) {
    Simd::load_f16(at, w);
  }
  static F multiply_add(F x, F w, F sum) { return Simd::fma(x, w, sum); }
};

struct Bf16Step {
  static constexpr Format kFormat = Format::bf16;
  static constexpr size_t kUnits = 2, kBytes = 64, kColumnsPerUnit = 1;
  template <size_t kUnit>
  static void load(const uint8_t* at, F (&w)[kVectors]) {
    if constexpr (kUnit == 0)
      Simd::load_bf16_even(at, w);
    else
      Simd::load_bf16_odd(at, w);
  }
  static F multiply_add(F x, F w, F sum) { return Simd::fma(x, w, sum); }
};

// The CPU's own dot product of pairs; S is Simd, named late so that only levels that have the
// instruction need it.
template <class S>
struct Bf16DotStep {
  static constexpr Format kFormat = Format::bf16;
  static constexpr size_t kUnits = 1, kBytes = 64, kColumnsPerUnit = 2;
  template <size_t kUnit>
  static void load(const uint8_t* at, F (&w)[kVectors]) {
    Simd::load_f32(at, w);
  }
  static F multiply_add(F x, F w, F sum) { return S::dot_bf16(x, w, sum); }
};

// One call: `panels` [NP] and `rows` [MR] stand at the first of `units` units.  Sums continue what
// lies at out, or begin.
struct FloatCall {
  const uint8_t* const* panels;
  const float* const* rows;
  size_t units;
  float* out;
  size_t stride;
  bool begins;
  Ahead ahead;
};

template <class Step, int MR, int NP>
void float_tile(const FloatCall& call) {
  F sum[MR][NP][kVectors];
  const float* row[MR];
  const uint8_t *panel[NP], *ahead[NP];
  float* const out = call.out;
  const size_t stride = call.stride, units = call.units;
  const size_t ahead_step = call.ahead.step * Step::kBytes / 64;
  unrolled<MR>([&](auto m) MOE_INLINE { row[m] = call.rows[m]; });
  unrolled<NP>([&](auto p) MOE_INLINE {
    panel[p] = call.panels[p];
    ahead[p] = panel[p] + call.ahead.offset;
  });
  if (call.begins)
    for_registers<MR, NP>([&](auto m, auto p, auto v) MOE_INLINE { sum[m][p][v] = Simd::zero(); });
  else
    for_registers<MR, NP>([&](auto m, auto p, auto v) MOE_INLINE {
      sum[m][p][v] = Simd::load(out + m * stride + p * 16 + v * Simd::kLanes);
    });
  for (size_t unit = 0; unit < units; unit += Step::kUnits) {
    unrolled<Step::kUnits>([&](auto u) MOE_INLINE {
      unrolled<NP>([&](auto p) MOE_INLINE {
        F w[kVectors];
        Step::template load<u>(panel[p], w);
        unrolled<MR>([&](auto m) MOE_INLINE {
          const F x = Simd::broadcast(row[m][unit + u]);
          unrolled<kVectors>([&](auto v) MOE_INLINE {
            sum[m][p][v] = Step::multiply_add(x, w[v], sum[m][p][v]);
          });
        });
      });
    });
    unrolled<NP>([&](auto p) MOE_INLINE {
      Simd::prefetch(ahead[p]);
      ahead[p] += ahead_step;
      panel[p] += Step::kBytes;
    });
  }
  for_registers<MR, NP>([&](auto m, auto p, auto v) MOE_INLINE {
    Simd::store(out + m * stride + p * 16 + v * Simd::kLanes, sum[m][p][v]);
  });
}

// ------------------------------------------------------------------------------- integers

// A prepared row of integers: these, then for each block of 32 a scale and, times
// minus the format's middle, the sum.
struct IntRow {
  const uint8_t* integers;
  const float* scales;
  const int32_t* offsets;
};

struct IntCall {
  const Panels* weights;
  const uint8_t* const* panels;  // [NP], each from its beginning
  const IntRow* rows;            // [MR]
  size_t first_block, end_block;
  float* out;
  size_t stride;
  Ahead ahead;
};

// The scales of one block of a panel's 16 rows; `at` is where those of block 0 lie.
inline void load_scales(const uint8_t* at, bool wide, size_t block, F (&scales)[kVectors]) {
  if (wide)
    Simd::load_f32(at + block * 64, scales);
  else
    Simd::load_narrow(at + block * 32, scales);
}

// dot [NP][MR] += 32 columns of the rows of NP panels times those of MR rows.  S is Simd, named late:
// not every level has a dot product of bytes.
template <class S, Format kFormat, bool kWide, int MR, int NP>
MOE_INLINE inline void dot_block(const uint8_t* const (&panels)[NP],
                                 const uint8_t* const (&integers)[MR],
                                 I (&dot)[NP][MR][kVectors]) {
  if constexpr (kWide)
    S::template dot_words<kFormat, MR, NP>(panels, integers, dot);
  else
    S::template dot_bytes<kFormat, MR, NP>(panels, integers, dot);
}

// How many panels, a power of two, that many rows meet at once: Simd::kMaxDots dot products of integers
// have registers.
constexpr int panels_together(int rows, int panels) {
  return panels == 1 || rows * panels <= Simd::kMaxDots ? panels : panels_together(rows, panels / 2);
}

template <Format kFormat, bool kWide, int MR, int NP>
void int_tile(const IntCall& call) {
  const Panels& weights = *call.weights;
  constexpr size_t kBlockBytes = kFormat == Format::int8 ? 512 : 256;
  constexpr int32_t kMiddle = middle(kFormat);
  const size_t row_blocks_per_scale = weights.block_size / kRowBlock;  // 0: one scale for all
  const size_t last = padded_columns(kFormat, weights.columns) / kRowBlock;
  const size_t scales_at = scales_offset(weights), zeros_at = zeros_offset(weights);
  const bool has_zeros = weights.has_zeros, wide_scales = weights.wide_scales;
  // The block from which on lines ahead are those of the next panels.
  const size_t turns_at = call.ahead.turn ? last - Ahead::kStreamAhead / kBlockBytes : size_t(-1);
  if (call.ahead.is_stream() && row_blocks_per_scale) {
    // Scales lie behind the panel's integers, and are read along with them.
    const size_t scale_bytes = last / row_blocks_per_scale * (wide_scales ? 64 : 32);
    unrolled<NP>([&](auto p) MOE_INLINE {
      for (size_t i = 0; i < scale_bytes; i += 64) Simd::prefetch(call.panels[p] + scales_at + i);
    });
  }
  F sum[MR][NP][kVectors];
  float* const out = call.out;
  const size_t stride = call.stride;
  if (call.first_block)
    for_registers<MR, NP>([&](auto m, auto p, auto v) MOE_INLINE {
      sum[m][p][v] = Simd::load(out + m * stride + p * 16 + v * Simd::kLanes);
    });
  else
    for_registers<MR, NP>([&](auto m, auto p, auto v) MOE_INLINE { sum[m][p][v] = Simd::zero(); });
  // The scale's block, and how many blocks of rows it has left: a division costs as much as a panel.
  size_t block = row_blocks_per_scale ? call.first_block / row_blocks_per_scale : 0;
  size_t left = row_blocks_per_scale - (call.first_block - block * row_blocks_per_scale);
  for (size_t b = call.first_block; b < call.end_block; ++b, --left) {
    if (row_blocks_per_scale && !left) {
      ++block;
      left = row_blocks_per_scale;
    }
    const uint8_t* integers[MR];
    unrolled<MR>([&](auto m) MOE_INLINE {
      integers[m] = call.rows[m].integers + b * kRowBlock * (kWide ? 2 : 1);
    });
    // Rows meet several panels at once, and are loaded once for them, while the registers last.
    constexpr int kTogether = panels_together(MR, NP);
    unrolled<NP / kTogether>([&](auto group) MOE_INLINE {
      const uint8_t* at[kTogether];
      I dot[kTogether][MR][kVectors];
      unrolled<kTogether>([&](auto t) MOE_INLINE {
        const uint8_t* const panel = call.panels[group * kTogether + t];
        at[t] = panel + b * kBlockBytes;
        // sum (q - zero) x = sum q x - zero sum x, the second term first.  Without zeros the zero
        // is the middle, and the term lies ready in the row.
        for_registers<MR, 1>([&](auto m, auto, auto v) MOE_INLINE {
          const uint8_t* zeros = panel + zeros_at + block * 16 + v * Simd::kLanes;
          dot[t][m][v] = has_zeros
                             ? Simd::times_bytes(zeros, call.rows[m].offsets[b] / kMiddle)
                             : Simd::broadcast_int(call.rows[m].offsets[b]);
        });
        const uint8_t* const ahead = panel + call.first_block * kBlockBytes + call.ahead.offset +
                                     (b - call.first_block) * (kBlockBytes / 64) * call.ahead.step +
                                     (b >= turns_at ? call.ahead.turn : 0);
        unrolled<kBlockBytes / 64>(
            [&](auto line) MOE_INLINE { Simd::prefetch(ahead + line * call.ahead.step); });
      });
      dot_block<Simd, kFormat, kWide, MR, kTogether>(at, integers, dot);
      unrolled<kTogether>([&](auto t) MOE_INLINE {
        constexpr int p = group * kTogether + t;
        F scales[kVectors] = {};
        if (row_blocks_per_scale) load_scales(call.panels[p] + scales_at, wide_scales, block, scales);
        unrolled<MR>([&](auto m) MOE_INLINE {
          const F row_scale = Simd::broadcast(call.rows[m].scales[b]);
          unrolled<kVectors>([&](auto v) MOE_INLINE {
            const F scale = row_blocks_per_scale ? Simd::mul(row_scale, scales[v]) : row_scale;
            sum[m][p][v] = Simd::fma(Simd::to_float(dot[t][m][v]), scale, sum[m][p][v]);
          });
        });
      });
    });
  }
  const bool scale_now = !row_blocks_per_scale && call.end_block == last;
  unrolled<NP>([&](auto p) MOE_INLINE {
    F scales[kVectors] = {};
    if (scale_now) load_scales(call.panels[p] + scales_at, wide_scales, 0, scales);
    for_registers<MR, 1>([&](auto m, auto, auto v) MOE_INLINE {
      Simd::store(out + m * stride + p * 16 + v * Simd::kLanes,
                  scale_now ? Simd::mul(sum[m][p][v], scales[v]) : sum[m][p][v]);
    });
  });
}

// ------------------------------------------------------------------------------- tiling

// What a tile is of its job.
struct Place {
  size_t first_row, rows;
  size_t first_panel, panels;
  size_t tile, tiles;  // which of those that share these panels
};

// Runs tiles.run(Place) over all rows and panels.  Rows are shared out evenly (7 rows in tiles of
// at most 6 are 4 + 3, not 6 + 1), panels are the outer loop: a panel's block stays in the L1 while
// the rows pass by.
template <class Tiles>
void for_tiles(const Tiles& tiles, size_t num_rows, size_t count) {
  const size_t num_tiles = (num_rows + Tiles::kMaxRows - 1) / Tiles::kMaxRows;
  const size_t size = num_rows / num_tiles, larger = num_rows % num_tiles;
  const size_t step = Tiles::panels_of(size);  // fewer rows, not fewer panels
  for (size_t p = 0; p < count; p += step) {
    const size_t end = p + step < count ? p + step : count;
    for (size_t tile = 0, row = 0; tile < num_tiles; ++tile) {
      const size_t rows = size + (tile < larger ? 1 : 0);
      const size_t panels = Tiles::panels_of(rows);
      for (size_t q = p; q < end;) {
        const size_t now = q + panels <= end ? panels : 1;
        tiles.run({row, rows, q, now, tile, num_tiles});
        q += now;
      }
      row += rows;
    }
  }
}

// Where the job reads weights behind the tiles of panels [first, first + panels) of a block, from
// there: the next panels, then the next block of the first, then what lies behind the last.
inline ptrdiff_t next_weights(const Place& place, size_t count, size_t panel_bytes,
                              size_t block_begin, size_t block_end, bool last_block) {
  const ptrdiff_t bytes = ptrdiff_t(panel_bytes);
  if (place.first_panel + place.panels < count) return ptrdiff_t(place.panels) * bytes;
  if (!last_block)
    return ptrdiff_t(block_end - block_begin) - ptrdiff_t(place.first_panel) * bytes;
  return ptrdiff_t(count - place.first_panel) * bytes - ptrdiff_t(block_begin);
}

// The panels that a tile of MR rows takes at once: as many as the registers hold.
template <int MR>
constexpr int kPanelsOf = Simd::panels_of(MR);

template <class Step>
struct FloatTiles {
  static constexpr size_t kMaxRows = Simd::kMaxRows;
  const uint8_t* first_panel;  // at the column block
  size_t panel_bytes, count;
  const float* const* rows;  // at the column block
  size_t first, end;         // of the column block, in units
  float* out;
  size_t stride;
  bool last;

  static size_t panels_of(size_t rows) { return Simd::panels_of(int(rows)); }

  void run(const Place& place) const {
    const uint8_t* panels[Simd::kMaxPanels];
    for (size_t p = 0; p < place.panels; ++p)
      panels[p] = first_panel + (place.first_panel + p) * panel_bytes;
    constexpr size_t kUnitBytes = Step::kBytes / Step::kUnits;
    const ptrdiff_t next = next_weights(place, count, panel_bytes, first * kUnitBytes,
                                        end * kUnitBytes, last);
    const FloatCall call{panels,
                         rows + place.first_row,
                         end - first,
                         out + place.first_row * stride + place.first_panel * 16,
                         stride,
                         first == 0,
                         Ahead::of(place.tile, place.tiles, (end - first) * kUnitBytes, next, false)};
    pick<Simd::kMaxRows>(place, call);
  }

  template <int MR>
  static void pick(const Place& place, const FloatCall& call) {
    if (place.rows == MR)
      return place.panels == 1 ? float_tile<Step, MR, 1>(call)
                               : float_tile<Step, MR, kPanelsOf<MR>>(call);
    if constexpr (MR > 1) pick<MR - 1>(place, call);
  }
};

template <Format kFormat, bool kWide>
struct IntTiles {
  static constexpr size_t kMaxRows = Simd::kMaxIntRows;
  const Panels* weights;
  const uint8_t* first_panel;
  size_t count;
  const IntRow* rows;
  size_t first_block, end_block;
  float* out;
  size_t stride;

  // A core that reads one panel after the other gets half of what four at a time give it: the
  // hardware prefetches each by itself (13 against 25 GB/s, Zen 3).  With more rows than this the
  // products take longer than the reading.
  static constexpr size_t kMaxStreams = 4, kRowsOfStreams = 4;
  static constexpr size_t panels_of(size_t rows) {
    return rows <= kRowsOfStreams ? kMaxStreams : panels_together(int(rows), 2);
  }

  void run(const Place& place) const {
    constexpr size_t kBlockBytes = kFormat == Format::int8 ? 512 : 256;
    const uint8_t* panels[kMaxStreams];
    for (size_t p = 0; p < place.panels; ++p)
      panels[p] = first_panel + (place.first_panel + p) * weights->panel_bytes;
    const size_t begin = first_block * kBlockBytes, end = end_block * kBlockBytes;
    const ptrdiff_t next =
        next_weights(place, count, weights->panel_bytes, begin, end, end == scales_offset(*weights));
    const IntCall call{weights,
                       panels,
                       rows + place.first_row,
                       first_block,
                       end_block,
                       out + place.first_row * stride + place.first_panel * 16,
                       stride,
                       Ahead::of(place.tile, place.tiles, end - begin, next,
                                 place.first_panel + place.panels < count)};
    pick<Simd::kMaxIntRows>(place, call);
  }

  template <size_t MR>
  static void pick(const Place& place, const IntCall& call) {
    if (place.rows == MR)
      return place.panels == 1 ? int_tile<kFormat, kWide, MR, 1>(call)
                               : int_tile<kFormat, kWide, MR, panels_of(MR)>(call);
    if constexpr (MR > 1) pick<MR - 1>(place, call);
  }
};

// ------------------------------------------------------------------------------- multiply

// A multiply of at most kRowsAtOnce rows: what is shared out among tiles.
constexpr size_t kRowsAtOnce = 64;

struct Job {
  const Panels* weights;
  const uint8_t* panels;
  size_t count;
  const void* const* rows;
  size_t num_rows;  // 1..kRowsAtOnce
  float* out;
  size_t stride;
};

// One tile of rows reads everything once: blocks would only break its streams.
inline size_t column_block(const Job& job, size_t max_rows, size_t columns) {
  return job.num_rows <= max_rows ? columns : kColumnBlock;
}

inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

template <class Step>
void multiply_floats(const Job& job) {
  const size_t columns = padded_columns(Step::kFormat, job.weights->columns);
  const size_t block = column_block(job, Simd::kMaxRows, columns);
  const float* rows[kRowsAtOnce];
  for (size_t first = 0; first < columns; first += block) {
    for (size_t r = 0; r < job.num_rows; ++r)
      rows[r] = static_cast<const float*>(job.rows[r]) + first / Step::kColumnsPerUnit;
    const size_t end = least(columns, first + block);
    const FloatTiles<Step> tiles{job.panels + first * kPanelRows * value_bits(Step::kFormat) / 8,
                                 job.weights->panel_bytes,
                                 job.count,
                                 rows,
                                 first / Step::kColumnsPerUnit,
                                 end / Step::kColumnsPerUnit,
                                 job.out,
                                 job.stride,
                                 end == columns};
    for_tiles(tiles, job.num_rows, job.count);
  }
}

template <class S>
void multiply_bf16(const Job& job, RowFormat format) {
  if constexpr (S::kHasBf16) {
    if (format == RowFormat::bf16) return multiply_floats<Bf16DotStep<S>>(job);
  }
  multiply_floats<Bf16Step>(job);
}

// Columns [first, end) of a panel of integers as floats, [end - first][16].
template <Format kFormat>
void widen(const Panels& w, const uint8_t* panel, size_t first, size_t end, float* out) {
  constexpr size_t kGroup = kFormat == Format::int8 ? 4 : 8;  // columns of 64 bytes
  for (size_t c = first; c < end; ++c) {
    const uint8_t* at = panel + c / kGroup * 64 + c % 4;
    const bool high = kFormat == Format::int4 && c % 8 >= 4;
    const size_t block = w.block_size ? c / w.block_size : 0;
    float scales[16];
    F loaded[kVectors];
    load_scales(panel + scales_offset(w), w.wide_scales, block, loaded);
    for (int v = 0; v < kVectors; ++v) Simd::store(scales + v * Simd::kLanes, loaded[v]);
    const uint8_t* zeros = panel + zeros_offset(w) + block * 16;
    for (size_t r = 0; r < 16; ++r) {
      int q = at[4 * r];
      if (kFormat == Format::int4) q = high ? q >> 4 : q & 15;
      const int zero = w.has_zeros ? zeros[r] : middle(kFormat);
      *out++ = float(q - zero) * scales[r];
    }
  }
}

// Integer weights times rows of floats: exact in the weights, at the price of widening them.
template <Format kFormat>
void multiply_widened(const Job& job) {
  alignas(64) float widened[kColumnBlock * 16];
  const size_t columns = job.weights->columns;
  const float* rows[kRowsAtOnce];
  for (size_t p = 0; p < job.count; ++p) {
    const uint8_t* panel = job.panels + p * job.weights->panel_bytes;
    for (size_t first = 0; first < columns; first += kColumnBlock) {
      const size_t end = least(columns, first + kColumnBlock);
      widen<kFormat>(*job.weights, panel, first, end, widened);
      for (size_t r = 0; r < job.num_rows; ++r)
        rows[r] = static_cast<const float*>(job.rows[r]) + first;
      const FloatTiles<F32Step> tiles{reinterpret_cast<const uint8_t*>(widened),
                                      0,
                                      1,
                                      rows,
                                      first,
                                      end,
                                      job.out + p * 16,
                                      job.stride,
                                      end == columns};
      for_tiles(tiles, job.num_rows, 1);
    }
  }
}

template <Format kFormat, bool kWide>
void multiply_integers(const Job& job) {
  const size_t columns = padded_columns(kFormat, job.weights->columns);
  const size_t blocks = columns / kRowBlock;
  const size_t step = column_block(job, Simd::kMaxIntRows, columns) / kRowBlock;
  IntRow rows[kRowsAtOnce];
  for (size_t r = 0; r < job.num_rows; ++r) {
    const uint8_t* at = static_cast<const uint8_t*>(job.rows[r]);
    const float* scales =
        reinterpret_cast<const float*>(at + columns * (kWide ? 2 : 1));
    rows[r] = {at, scales, reinterpret_cast<const int32_t*>(scales + blocks)};
  }
  for (size_t first = 0; first < blocks; first += step) {
    const IntTiles<kFormat, kWide> tiles{job.weights, job.panels, job.count, rows, first,
                                  least(first + step, blocks), job.out, job.stride};
    for_tiles(tiles, job.num_rows, job.count);
  }
}

template <Format kFormat>
void multiply_quantized(const Job& job, RowFormat format) {
  if (!is_integer(format)) return multiply_widened<kFormat>(job);
  if constexpr (Simd::has_byte_dot(kFormat)) {
    if (format == RowFormat::int8) return multiply_integers<kFormat, false>(job);
  }
  multiply_integers<kFormat, true>(job);
}

void multiply_job(const Job& job, RowFormat format) {
  switch (job.weights->format) {
    case Format::f32:
      return multiply_floats<F32Step>(job);
    case Format::f16:
      return multiply_floats<F16Step>(job);
    case Format::bf16:
      return multiply_bf16<Simd>(job, format);
    case Format::int8:
      return multiply_quantized<Format::int8>(job, format);
    case Format::int4:
      return multiply_quantized<Format::int4>(job, format);
  }
}

void multiply(const Panels& weights, RowFormat format, const uint8_t* panels, size_t count,
              const void* const* rows, size_t num_rows, float* out, size_t stride) {
  for (size_t first = 0; first < num_rows; first += kRowsAtOnce)
    multiply_job({&weights, panels, count, rows + first, least(kRowsAtOnce, num_rows - first),
                  out + first * stride, stride},
                 format);
}
