// Stands in for the compiler's <immintrin.h> where the AVX-512 levels are to run on a CPU that has
// only AVX2.  What is tested then is what their sources say, not the library's machine code.
//
// An instruction on 512 bits is here two of AVX2 on 256, done by the CPU itself; the ones that AVX2
// lacks altogether are written out as Intel's manual has them (Intel 64 and IA-32 Architectures
// Software Developer's Manual, volume 2).  An intrinsic that is missing here does not compile: add
// a line.  Nothing is inlined: the kernels' unrolled tiles would take minutes to compile.
#pragma once
#include_next <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

// 512 bits as two halves.
struct Floats {
  __m256 half[2];
  Floats(__m256 low, __m256 high) : half{low, high} {}
  explicit Floats(const __m512& x) { std::memcpy(this, &x, 64); }
  operator __m512() const {
    __m512 x;
    std::memcpy(&x, this, 64);
    return x;
  }
};

struct Integers {
  __m256i half[2];
  Integers(__m256i low, __m256i high) : half{low, high} {}
  explicit Integers(const __m512i& x) { std::memcpy(this, &x, 64); }
  operator __m512i() const {
    __m512i x;
    std::memcpy(&x, this, 64);
    return x;
  }
};

#define EMULATED static __attribute__((noinline, unused))

#define EMULATED_BINARY(Whole, Halves, name, operation)                                        \
  EMULATED Whole name(Whole a, Whole b) {                                                      \
    const Halves x(a), y(b);                                                                   \
    return Halves(operation(x.half[0], y.half[0]), operation(x.half[1], y.half[1]));           \
  }

EMULATED_BINARY(__m512, Floats, add_ps, _mm256_add_ps)
EMULATED_BINARY(__m512, Floats, mul_ps, _mm256_mul_ps)
EMULATED_BINARY(__m512i, Integers, add_epi16, _mm256_add_epi16)
EMULATED_BINARY(__m512i, Integers, add_epi32, _mm256_add_epi32)
EMULATED_BINARY(__m512i, Integers, sub_epi8, _mm256_sub_epi8)
EMULATED_BINARY(__m512i, Integers, sub_epi32, _mm256_sub_epi32)
EMULATED_BINARY(__m512i, Integers, mullo_epi32, _mm256_mullo_epi32)
EMULATED_BINARY(__m512i, Integers, madd_epi16, _mm256_madd_epi16)
EMULATED_BINARY(__m512i, Integers, maddubs_epi16, _mm256_maddubs_epi16)
EMULATED_BINARY(__m512i, Integers, and_si512, _mm256_and_si256)
EMULATED_BINARY(__m512i, Integers, or_si512, _mm256_or_si256)

#define EMULATED_SHIFT(name, operation)                                       \
  EMULATED __m512i name(__m512i a, int by) {                                  \
    const Integers x(a);                                                      \
    return Integers(operation(x.half[0], by), operation(x.half[1], by));      \
  }

EMULATED_SHIFT(slli_epi32, _mm256_slli_epi32)
EMULATED_SHIFT(srli_epi32, _mm256_srli_epi32)
EMULATED_SHIFT(srli_epi16, _mm256_srli_epi16)

EMULATED __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const Floats x(a), y(b), z(c);
  return Floats(_mm256_fmadd_ps(x.half[0], y.half[0], z.half[0]),
                _mm256_fmadd_ps(x.half[1], y.half[1], z.half[1]));
}

EMULATED __m512 cvtepi32_ps(__m512i a) {
  const Integers x(a);
  return Floats(_mm256_cvtepi32_ps(x.half[0]), _mm256_cvtepi32_ps(x.half[1]));
}

EMULATED __m512i cvtepu16_epi32(__m256i x) {
  return Integers(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
                  _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}

EMULATED __m512i cvtepu8_epi32(__m128i x) {
  return Integers(_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(x, x)));
}

EMULATED __m512 cvtph_ps(__m256i x) {
  return Floats(_mm256_cvtph_ps(_mm256_castsi256_si128(x)),
                _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1)));
}

EMULATED __m512 set1_ps(float x) { return Floats(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
EMULATED __m512i set1_epi8(int x) {
  return Integers(_mm256_set1_epi8(char(x)), _mm256_set1_epi8(char(x)));
}
EMULATED __m512i set1_epi16(int x) {
  return Integers(_mm256_set1_epi16(short(x)), _mm256_set1_epi16(short(x)));
}
EMULATED __m512i set1_epi32(int x) { return Integers(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }

// VPDPBUSD: to each 32-bit sum four products of an unsigned byte of a and a signed one of b, without
// saturation.
EMULATED __m512i dpbusd(__m512i sum, __m512i a, __m512i b) {
  uint32_t sums[16];
  uint8_t left[64];
  int8_t right[64];
  std::memcpy(sums, &sum, 64);
  std::memcpy(left, &a, 64);
  std::memcpy(right, &b, 64);
  for (int i = 0; i < 64; ++i) sums[i / 4] += uint32_t(int32_t(left[i]) * int32_t(right[i]));
  std::memcpy(&sum, sums, 64);
  return sum;
}

EMULATED __m512i dpwssd(__m512i sum, __m512i a, __m512i b) {
  return add_epi32(sum, madd_epi16(a, b));
}

EMULATED float flushed(float x) {
  return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.0f, x) : x;
}

// VDPBF16PS: of each pair the odd product is added first, then the even one, each fused with its
// addition and rounded to nearest even; subnormal numbers count as 0 and become 0.
EMULATED __m512 dpbf16(__m512 sum, __m512bh a, __m512bh b) {
  float sums[16];
  uint16_t halves[2][32];
  std::memcpy(sums, &sum, 64);
  std::memcpy(halves[0], &a, 64);
  std::memcpy(halves[1], &b, 64);
  for (int i = 0; i < 16; ++i)
    for (int odd = 1; odd >= 0; --odd) {
      float factors[2];
      for (int f = 0; f < 2; ++f) {
        const uint32_t bits = uint32_t(halves[f][2 * i + odd]) << 16;
        std::memcpy(&factors[f], &bits, 4);
      }
      sums[i] = flushed(std::fma(flushed(factors[0]), flushed(factors[1]), flushed(sums[i])));
    }
  std::memcpy(&sum, sums, 64);
  return sum;
}

template <class Whole>
static inline Whole loaded(const void* at) {
  Whole x;
  std::memcpy(&x, at, 64);
  return x;
}

// place(i) is where number i comes from, among those of a and then those of b.
template <class Place>
static inline __m512 shuffled(__m512 a, __m512 b, Place place) {
  float from[32], to[16];
  std::memcpy(from, &a, 64);
  std::memcpy(from + 16, &b, 64);
  for (int i = 0; i < 16; ++i) to[i] = from[place(i)];
  __m512 made;
  std::memcpy(&made, to, 64);
  return made;
}

// Groups of four numbers: two of a, two of b, each by two bits of `which`.
EMULATED __m512 shuffle_f32x4(__m512 a, __m512 b, int which) {
  return shuffled(a, b, [&](int i) { return i / 8 * 16 + (which >> i / 4 * 2 & 3) * 4 + i % 4; });
}

// The same for the numbers of each group.
EMULATED __m512 shuffle_ps(__m512 a, __m512 b, int which) {
  return shuffled(a, b, [&](int i) { return i % 4 / 2 * 16 + i / 4 * 4 + (which >> i % 4 * 2 & 3); });
}

EMULATED float reduce_add_ps(__m512 x) {
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += x[i];
  return sum;
}

template <class Whole>
static inline void stored(void* at, Whole x) {
  std::memcpy(at, &x, 64);
}

// ------------------------------------------------------------------------------- AMX

// The registers of a thread.  What LDTILECFG and the products refuse ends the program, as it does on
// a CPU.
struct Tile {
  uint8_t bytes[16][64];
  int rows, columns;  // columns in bytes
};

static thread_local Tile tiles[8];

EMULATED void tile_require(bool holds) {
  if (!holds) __builtin_trap();
}

EMULATED void tile_configure(const void* at) {
  const auto* shape = static_cast<const uint8_t*>(at);
  tile_require(shape[0] == 1);
  for (int i = 1; i < 16; ++i) tile_require(shape[i] == 0);
  for (int t = 0; t < 16; ++t) {
    uint16_t columns;
    std::memcpy(&columns, shape + 16 + 2 * t, 2);
    const int rows = shape[48 + t];
    if (t > 7) tile_require(!rows && !columns);
    if (t > 7) continue;
    tile_require(rows <= 16 && columns <= 64 && !rows == !columns);
    tiles[t] = Tile{{}, rows, columns};
  }
}

EMULATED void tile_release() {
  for (Tile& tile : tiles) tile = Tile{};
}

EMULATED Tile& tile_in_use(int t) {
  tile_require(tiles[t].rows > 0);
  return tiles[t];
}

EMULATED void tile_zero(int t) { std::memset(tile_in_use(t).bytes, 0, sizeof tiles[t].bytes); }

EMULATED void tile_load(int t, const void* at, size_t stride) {
  tile_zero(t);
  for (int r = 0; r < tiles[t].rows; ++r)
    std::memcpy(tiles[t].bytes[r], static_cast<const uint8_t*>(at) + size_t(r) * stride,
                size_t(tiles[t].columns));
}

EMULATED void tile_store(int t, void* at, size_t stride) {
  for (int r = 0; r < tile_in_use(t).rows; ++r)
    std::memcpy(static_cast<uint8_t*>(at) + size_t(r) * stride, tiles[t].bytes[r],
                size_t(tiles[t].columns));
}

// What the shapes of a product's three registers must be to each other.
EMULATED void tile_require_product(int sums, int left, int right) {
  const Tile &c = tile_in_use(sums), &a = tile_in_use(left), &b = tile_in_use(right);
  tile_require(sums != left && sums != right && left != right);
  tile_require(c.rows == a.rows && c.columns == b.columns && a.columns == 4 * b.rows);
}

// TDPBSSD: products of signed bytes, four to a sum, without saturation.
EMULATED void tile_dpbssd(int sums, int left, int right) {
  tile_require_product(sums, left, right);
  for (int m = 0; m < tiles[sums].rows; ++m)
    for (int n = 0; n < tiles[sums].columns / 4; ++n) {
      uint32_t sum;
      std::memcpy(&sum, tiles[sums].bytes[m] + 4 * n, 4);
      for (int k = 0; k < tiles[left].columns; ++k)
        sum += uint32_t(int8_t(tiles[left].bytes[m][k]) *
                        int8_t(tiles[right].bytes[k / 4][4 * n + k % 4]));
      std::memcpy(tiles[sums].bytes[m] + 4 * n, &sum, 4);
    }
}

EMULATED float tile_bfloat16(const Tile& tile, int row, int at) {
  uint16_t half;
  std::memcpy(&half, tile.bytes[row] + 2 * at, 2);
  const uint32_t bits = uint32_t(half) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return flushed(x);
}

// TDPBF16PS: even and odd columns are summed each for itself, then both are added to the sum; all
// rounded to nearest even, subnormal numbers being 0.
EMULATED void tile_dpbf16ps(int sums, int left, int right) {
  tile_require_product(sums, left, right);
  const Tile &a = tiles[left], &b = tiles[right];
  for (int m = 0; m < tiles[sums].rows; ++m)
    for (int n = 0; n < tiles[sums].columns / 4; ++n) {
      float halves[2] = {}, sum;
      for (int k = 0; k < b.rows; ++k)
        for (int odd = 0; odd < 2; ++odd)
          halves[odd] = flushed(std::fma(tile_bfloat16(a, m, 2 * k + odd),
                                         tile_bfloat16(b, k, 2 * n + odd), halves[odd]));
      std::memcpy(&sum, tiles[sums].bytes[m] + 4 * n, 4);
      sum = flushed(flushed(sum) + flushed(halves[0] + halves[1]));
      std::memcpy(tiles[sums].bytes[m] + 4 * n, &sum, 4);
    }
}

}  // namespace emulated

#define _mm512_add_ps emulated::add_ps
#define _mm512_mul_ps emulated::mul_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_reduce_add_ps emulated::reduce_add_ps
#define _mm512_shuffle_f32x4 emulated::shuffle_f32x4
#define _mm512_shuffle_ps emulated::shuffle_ps
#define _mm512_add_epi16 emulated::add_epi16
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_sub_epi8 emulated::sub_epi8
#define _mm512_sub_epi32 emulated::sub_epi32
#define _mm512_mullo_epi32 emulated::mullo_epi32
#define _mm512_madd_epi16 emulated::madd_epi16
#define _mm512_maddubs_epi16 emulated::maddubs_epi16
#define _mm512_and_si512 emulated::and_si512
#define _mm512_or_si512 emulated::or_si512
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_srli_epi32 emulated::srli_epi32
#define _mm512_srli_epi16 emulated::srli_epi16
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtepu8_epi32 emulated::cvtepu8_epi32
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_set1_ps emulated::set1_ps
#define _mm512_set1_epi8 emulated::set1_epi8
#define _mm512_set1_epi16 emulated::set1_epi16
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_dpbusd_epi32 emulated::dpbusd
#define _mm512_dpwssd_epi32 emulated::dpwssd
#define _mm512_dpbf16_ps emulated::dpbf16
#define _mm512_setzero_ps() (__m512{})
#define _mm512_setzero_si512() (__m512i{})
#define _mm512_loadu_ps(at) emulated::loaded<__m512>(at)
#define _mm512_loadu_si512(at) emulated::loaded<__m512i>(at)
#define _mm512_storeu_ps(at, x) emulated::stored(at, x)
#define _mm512_storeu_si512(at, x) emulated::stored(at, x)
#define _mm512_castsi512_ps(x) ((__m512)(x))
#define _mm512_castps_si512(x) ((__m512i)(x))

// The compiler's own are macros.
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated::tile_configure
#define _tile_release emulated::tile_release
#define _tile_zero emulated::tile_zero
#define _tile_loadd emulated::tile_load
#define _tile_stored emulated::tile_store
#define _tile_dpbssd emulated::tile_dpbssd
#define _tile_dpbf16ps emulated::tile_dpbf16ps
