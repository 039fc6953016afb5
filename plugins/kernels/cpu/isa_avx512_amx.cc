// AVX-512 with AMX: bfloat16 and bytes are multiplied 16 rows by 16 columns at once.
//
// Panels are tiles of weights as they lie: a line holds the next pair of bfloat16, or the next four
// bytes, of 16 rows of a matrix.  All else is AVX-512's.
#define MOE_EXPORT_AVX512_DOT 1
#include "avx512.inc.h"

namespace moe {
namespace {

#include "amx.inc.h"

// Asks for a line to be in the L2 when its turn comes.
MOE_INLINE inline void ask(const uint8_t* at) { __builtin_prefetch(at, 0, 2); }

// Panels that meet a tile of rows together, at most.
constexpr size_t kPanelsAtOnce = 4;

// ------------------------------------------------------------------------------- bfloat16

// MT tiles of rows times NP panels.  Sums continue what lies at out, or begin.
struct Bf16Call {
  EvenRows rows;
  const uint8_t* const* panels;  // [NP]
  size_t steps;                  // tiles of columns
  float* out;
  size_t stride;
  bool begins;
};

template <int MT, int NP>
void bf16_tile(const Bf16Call& call) {
  static_assert(MT * NP <= 4);
  // body(the register, where its sums lie)
  const auto each_sum = [&](const auto& body) MOE_INLINE {
    unrolled<MT * NP>([&](auto i) MOE_INLINE {
      constexpr size_t m = i / NP, p = i % NP;
      body(std::integral_constant<int, MT == 1 ? p : 2 * m + p>{},
           call.out + m * kTileRows * call.stride + p * kPanelRows);
    });
  };
  // A core reads a panel as a stream; this far ahead of it.
  constexpr size_t kAhead = 4 * kTileBytes;
  const size_t stride = call.stride * sizeof(float);
  if (call.begins)
    each_sum([](auto sum, float*) MOE_INLINE { tile_zero<sum>(); });
  else
    each_sum([&](auto sum, float* out) MOE_INLINE { tile_load<sum>(out, stride); });
  for (size_t step = 0; step < call.steps; ++step) {
    unrolled<MT>([&](auto m) MOE_INLINE {
      tile_load<4 + int(m)>(call.rows.at(m * kTileRows) + step * kLine, call.rows.stride);
    });
    unrolled<NP>([&](auto p) MOE_INLINE {
      constexpr int weights = 6 + p % 2;
      const uint8_t* const at = call.panels[p] + step * kTileBytes;
      unrolled<int(kTileRows)>(
          [&](auto line) MOE_INLINE { Simd::prefetch(at + kAhead + line * kLine); });
      tile_load<weights>(at, kLine);
      unrolled<MT>([&](auto m) MOE_INLINE {
        tile_product<false, MT == 1 ? int(p) : int(2 * m + p), 4 + int(m), weights>();
      });
    });
  }
  each_sum([&](auto sum, float* out) MOE_INLINE { tile_store<sum>(out, stride); });
}

size_t bf16_panels_at_once(size_t tiles, size_t left) {
  if (tiles == 1 && left >= 4) return 4;
  return left >= 2 ? 2 : 1;
}

void bf16_tiles(size_t tiles, size_t panels, const Bf16Call& call) {
  if (tiles == 2) return panels == 2 ? bf16_tile<2, 2>(call) : bf16_tile<2, 1>(call);
  if (panels == 4) return bf16_tile<1, 4>(call);
  return panels == 2 ? bf16_tile<1, 2>(call) : bf16_tile<1, 1>(call);
}

// The columns behind the last whole tile of them, up to a whole one with zeros.
void bf16_tail(size_t tiles, size_t panels, Bf16Call call, size_t bytes) {
  alignas(64) uint8_t padded[kPanelsAtOnce][kTileBytes];
  const uint8_t* at[kPanelsAtOnce];
  for (size_t p = 0; p < panels; ++p) {
    __builtin_memcpy(padded[p], call.panels[p] + call.steps * kTileBytes, bytes * kPanelRows);
    __builtin_memset(padded[p] + bytes * kPanelRows, 0, kTileBytes - bytes * kPanelRows);
    at[p] = padded[p];
  }
  settle(padded);
  call.rows.first += call.steps * kLine;
  call.begins = call.begins && !call.steps;
  call.panels = at;
  call.steps = 1;
  bf16_tiles(tiles, panels, call);
}

constexpr size_t kBf16Rows = 2 * kTileRows;

// At most kBf16Rows rows.
void multiply_bf16_rows(const Job& job) {
  constexpr size_t kBlock = kColumnBlock * 2;  // bytes of a row: all of them are 32 KiB
  alignas(64) uint8_t buffer[kBf16Rows * kBlock];
  const size_t tiles = job.num_rows > kTileRows ? 2 : 1;
  const size_t first_rows = least(job.num_rows, kTileRows);
  const Tiles registers(first_rows, tiles == 2 ? job.num_rows - kTileRows : first_rows, kLine);
  const size_t bytes = padded_columns(Format::bf16, job.weights->columns) * 2;
  for (size_t begin = 0; begin < bytes; begin += kBlock) {
    const size_t end = least(bytes, begin + kBlock);
    const EvenRows rows = EvenRows::of(job.rows, job.num_rows, begin, end, kLine, buffer);
    for (size_t p = 0, panels; p < job.count; p += panels) {
      panels = bf16_panels_at_once(tiles, job.count - p);
      const uint8_t* at[kPanelsAtOnce];
      for (size_t q = 0; q < panels; ++q)
        at[q] = job.panels + (p + q) * job.weights->panel_bytes + begin * kPanelRows;
      const Bf16Call call{rows,       at,        (end - begin) / kLine, job.out + p * kPanelRows,
                          job.stride, begin == 0};
      if (call.steps) bf16_tiles(tiles, panels, call);
      if (const size_t left = (end - begin) % kLine) bf16_tail(tiles, panels, call, left);
    }
  }
}

// ------------------------------------------------------------------------------- bytes

constexpr size_t kBlocks = kColumnBlock / kRowBlock;  // of 32 columns, unpacked at once

// Blocks whose products are stored, to be scaled one step later.  Twice as many would be 8 KiB, and a
// CPU takes addresses that are 4 KiB apart for the same until it knows better: 1.4 times as long.
constexpr size_t kUnderWay = 2;

// Some blocks of the rows of a job.
struct ByteRows {
  EvenRows integers;
  const float (*scales)[kRowsAtOnce + kTileRows];  // [block][row]
};

// The same blocks of one panel.
struct ByteWeights {
  alignas(64) uint8_t bytes[kBlocks][kRowBlock * kPanelRows];  // signed: less the format's middle
  alignas(64) float scales[kBlocks][kPanelRows];
  bool has_scales;  // else one for all columns, which is not here
};

template <Format kFormat>
MOE_INLINE inline void unpack_block(const uint8_t* from, uint8_t* to) {
  const I zero = _mm512_set1_epi8(char(middle(kFormat)));
  if constexpr (kFormat == Format::int8) {
    unrolled<8>([&](auto line) MOE_INLINE {
      const I bytes = Simd::load_int(from + line * kLine);
      _mm512_storeu_si512(to + line * kLine, _mm512_sub_epi8(bytes, zero));
    });
  } else {
    const I nibble = _mm512_set1_epi8(15);
    unrolled<4>([&](auto line) MOE_INLINE {
      const I bytes = Simd::load_int(from + line * kLine);
      const I low = _mm512_and_si512(bytes, nibble);
      const I high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
      _mm512_storeu_si512(to + 2 * line * kLine, _mm512_sub_epi8(low, zero));
      _mm512_storeu_si512(to + (2 * line + 1) * kLine, _mm512_sub_epi8(high, zero));
    });
  }
}

// Blocks [first, first + count) of a panel.
template <Format kFormat>
void unpack(const Panels& weights, const uint8_t* panel, size_t first, size_t count,
            ByteWeights& to) {
  constexpr size_t kBlockBytes = kFormat == Format::int8 ? 512 : 256;
  const size_t blocks_per_scale = weights.block_size / kRowBlock;
  to.has_scales = blocks_per_scale != 0;
  for (size_t b = 0; b < count; ++b) {
    const uint8_t* const from = panel + (first + b) * kBlockBytes;
    unpack_block<kFormat>(from, to.bytes[b]);
    if (!to.has_scales) continue;
    F scales[1];
    load_scales(panel + scales_offset(weights), weights.wide_scales, (first + b) / blocks_per_scale,
                scales);
    Simd::store(to.scales[b], scales[0]);
  }
  settle(&to);
}

// One tile of rows, from row `first` on, times one panel.  Sums continue what lies at out, or begin.
struct ByteCall {
  const ByteRows& rows;
  size_t first, num_rows;
  const ByteWeights& weights;
  size_t blocks;
  const uint8_t* next;  // what is read next
  size_t lines;         // of it that each block asks for
  int32_t (*products)[kUnderWay][kTileRows * kPanelRows];  // [2]
  float* out;
  size_t stride;
  bool begins;
};

template <int J>
MOE_INLINE inline void start_block(const ByteCall& call, size_t block, int32_t* products) {
  constexpr int rows = 4 + J % 2, weights = 6 + J % 2;
  const EvenRows& integers = call.rows.integers;
  for (size_t line = 0; line < call.lines; ++line)
    ask(call.next + (block * call.lines + line) * kLine);
  tile_zero<J>();
  tile_load<rows>(integers.at(call.first) + block * kRowBlock, integers.stride);
  tile_load<weights>(call.weights.bytes[block], kLine);
  tile_product<true, J, rows, weights>();
  tile_store<J>(products, kLine);
}

// sum [MR] += the products of a block, times its scales.
template <int MR>
MOE_INLINE inline void scale_block(const ByteCall& call, size_t block, const int32_t* products,
                                   F (&sum)[MR]) {
  const float* const row_scales = call.rows.scales[block] + call.first;
  const F scales = Simd::load(call.weights.scales[block]);
  unrolled<MR>([&](auto m) MOE_INLINE {
    const F row_scale = Simd::broadcast(row_scales[m]);
    const F scale = call.weights.has_scales ? Simd::mul(row_scale, scales) : row_scale;
    const I dot = Simd::load_int(reinterpret_cast<const uint8_t*>(products + m * kPanelRows));
    sum[m] = Simd::fma(Simd::to_float(dot), scale, sum[m]);
  });
}

// MR: num_rows rounded up.
template <int MR>
void byte_tile(const ByteCall& call) {
  F sum[MR];
  unrolled<MR>([&](auto m) MOE_INLINE {
    sum[m] = call.begins || m >= call.num_rows ? Simd::zero() : Simd::load(call.out + m * call.stride);
  });
  const auto start = [&](size_t first) MOE_INLINE {
    unrolled<int(kUnderWay)>([&](auto j) MOE_INLINE {
      if (first + j < call.blocks)
        start_block<j>(call, first + j, call.products[first / kUnderWay % 2][j]);
    });
  };
  // The next products are under way while these are scaled.
  start(0);
  for (size_t first = 0; first < call.blocks; first += kUnderWay) {
    start(first + kUnderWay);
    for (size_t j = 0; j < kUnderWay && first + j < call.blocks; ++j)
      scale_block<MR>(call, first + j, call.products[first / kUnderWay % 2][j], sum);
  }
  unrolled<MR>([&](auto m) MOE_INLINE {
    if (m < call.num_rows) Simd::store(call.out + m * call.stride, sum[m]);
  });
}

void byte_tile_of(size_t largest, const ByteCall& call) {
  if (largest > 12) return byte_tile<16>(call);
  if (largest > 8) return byte_tile<12>(call);
  if (largest > 4) return byte_tile<8>(call);
  return byte_tile<4>(call);
}

// All columns share a scale: what the sums lack at the end.
void scale_sums(const Panels& weights, const uint8_t* panel, size_t num_rows, float* out,
                size_t stride) {
  F scales[1];
  load_scales(panel + scales_offset(weights), weights.wide_scales, 0, scales);
  for (size_t r = 0; r < num_rows; ++r)
    Simd::store(out + r * stride, Simd::mul(Simd::load(out + r * stride), scales[0]));
}

template <Format kFormat>
void multiply_byte_rows(const Job& job) {
  alignas(64) uint8_t buffer[kRowsAtOnce * kColumnBlock];
  alignas(64) int32_t products[2][kUnderWay][kTileRows * kPanelRows] = {};
  alignas(64) float row_scales[kBlocks][kRowsAtOnce + kTileRows] = {};
  ByteWeights weights;
  constexpr size_t kBlockBytes = kFormat == Format::int8 ? 512 : 256;
  const size_t columns = padded_columns(kFormat, job.weights->columns), blocks = columns / kRowBlock;
  // Rows are shared out evenly.  The smaller tiles come first: each may read the row behind its last.
  const size_t num_tiles = (job.num_rows + kTileRows - 1) / kTileRows;
  const size_t larger = job.num_rows % num_tiles, size = job.num_rows / num_tiles;
  const size_t largest = size + (larger ? 1 : 0);
  const size_t lines = (kBlockBytes / kLine + num_tiles - 1) / num_tiles;
  const Tiles registers(largest, largest, kRowBlock);
  for (size_t first = 0; first < blocks; first += kBlocks) {
    const size_t count = least(kBlocks, blocks - first);
    for (size_t r = 0; r < job.num_rows; ++r) {
      const auto* integers = static_cast<const uint8_t*>(job.rows[r]);
      const auto* of_row = reinterpret_cast<const float*>(integers + columns);
      for (size_t b = 0; b < count; ++b) row_scales[b][r] = of_row[first + b];
    }
    const ByteRows rows{EvenRows::of(job.rows, job.num_rows, first * kRowBlock,
                                     (first + count) * kRowBlock, kRowBlock, buffer),
                        row_scales};
    for (size_t p = 0; p < job.count; ++p) {
      const uint8_t* const panel = job.panels + p * job.weights->panel_bytes;
      float* const out = job.out + p * kPanelRows;
      unpack<kFormat>(*job.weights, panel, first, count, weights);
      const uint8_t* const next =
          panel + first * kBlockBytes +
          next_weights({0, 0, p, 1, 0, 1}, job.count, job.weights->panel_bytes, first * kBlockBytes,
                       (first + count) * kBlockBytes, first + count == blocks);
      for (size_t tile = 0, row = 0, now; tile < num_tiles; ++tile, row += now) {
        now = size + (tile + larger >= num_tiles ? 1 : 0);
        byte_tile_of(largest, {rows, row, now, weights, count,
                               next + tile * lines * count * kLine, lines, products,
                               out + row * job.stride, job.stride, first == 0});
      }
      if (!weights.has_scales && first + count == blocks)
        scale_sums(*job.weights, panel, job.num_rows, out, job.stride);
    }
  }
}

// ------------------------------------------------------------------------------- multiply

// Bytes of fewer rows than this are multiplied by AVX-512, with the same results.
constexpr size_t kFewestByteRows = 12;

void multiply_tiles(const Panels& weights, RowFormat format, const uint8_t* panels, size_t count,
                    const void* const* rows, size_t num_rows, float* out, size_t stride) {
  const auto run = [&](size_t at_once, void (*each)(const Job&)) {
    for (size_t row = 0; row < num_rows; row += at_once)
      each({&weights, panels, count, rows + row, least(at_once, num_rows - row), out + row * stride,
            stride});
  };
  if (weights.format == Format::bf16 && format == RowFormat::bf16)
    return run(kBf16Rows, multiply_bf16_rows);
  const bool are_bytes = format == RowFormat::int8 && !weights.has_zeros;
  if (are_bytes && num_rows >= kFewestByteRows) {
    if (weights.format == Format::int8) return run(kRowsAtOnce, multiply_byte_rows<Format::int8>);
    if (weights.format == Format::int4) return run(kRowsAtOnce, multiply_byte_rows<Format::int4>);
  }
  multiply(weights, format, panels, count, rows, num_rows, out, stride);
}

}  // namespace

const Isa kAvx512Amx = {"avx512_amx", row_bytes, row_is_plain, prepare,
                        multiply_tiles, activate, attend, turn_heads, true};

}  // namespace moe
