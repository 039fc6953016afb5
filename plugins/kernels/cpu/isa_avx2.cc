// AVX2 with FMA and F16C: 16 registers of 8 floats.
#include <immintrin.h>

#include <utility>

#include "isa.h"
#include "panels.h"

namespace moe {
namespace {

#include "unrolled.inc.h"

struct Simd {
  using F = __m256;
  using I = __m256i;
  static constexpr int kLanes = 8, kVectors = 2;
  // 6 rows x 16 are 12 sums, two registers of weights and one of rows: 15 of 16.
  static constexpr int kMaxRows = 6, kMaxPanels = 4;
  static constexpr int kMaxIntRows = 8, kMaxDots = 4;
  static constexpr bool kHasBf16 = false;

  // FMA takes 4 cycles and two start in each: 8 sums at least must be under way.
  static constexpr int panels_of(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }

  // The sum of two products of an unsigned and a signed byte saturates at 16 bits, but for int4:
  // 15 * 127 * 2 does not.
  static constexpr bool has_byte_dot(Format weights) { return weights == Format::int4; }

  static F zero() { return _mm256_setzero_ps(); }
  static F broadcast(const float& x) { return _mm256_broadcast_ss(&x); }
  static F load(const float* at) { return _mm256_loadu_ps(at); }
  static void store(float* at, F x) { _mm256_storeu_ps(at, x); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  // a * b + c.  Written out so that the sum stays in its register: GCC 12 would put it into a's as
  // often, and move registers about or spill them.
  static F fma(F a, F b, F c) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(c) : "x"(a), "x"(b));
    return c;
  }
  static constexpr int kSums = 8;  // that a tile of dot products keeps
  static constexpr bool kSumsAtOnce = false;
  static float sum(F x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static void prefetch(const uint8_t* at) { _mm_prefetch(at, _MM_HINT_T0); }
  static I load_int(const uint8_t* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  }
  static __m128i load_half(const uint8_t* at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  }

  static void load_f32(const uint8_t* at, F (&w)[2]) {
    w[0] = _mm256_castsi256_ps(load_int(at));
    w[1] = _mm256_castsi256_ps(load_int(at + 32));
  }
  static void load_f16(const uint8_t* at, F (&w)[2]) {
    w[0] = _mm256_cvtph_ps(load_half(at));
    w[1] = _mm256_cvtph_ps(load_half(at + 16));
  }
  static void load_narrow(const uint8_t* at, F (&w)[2]) {
    for (int v = 0; v < 2; ++v)
      w[v] = _mm256_castsi256_ps(
          _mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(at + 16 * v)), 16));
  }
  // A pair of bfloat16 in 32 bits: the even column is the low half, moved up; the odd one is the
  // high half as it stands.
  static void load_bf16_even(const uint8_t* at, F (&w)[2]) {
    for (int v = 0; v < 2; ++v)
      w[v] = _mm256_castsi256_ps(_mm256_slli_epi32(load_int(at + 32 * v), 16));
  }
  static void load_bf16_odd(const uint8_t* at, F (&w)[2]) {
    const I high = _mm256_set1_epi32(int32_t(0xffff0000));
    for (int v = 0; v < 2; ++v)
      w[v] = _mm256_castsi256_ps(_mm256_and_si256(load_int(at + 32 * v), high));
  }

  static I broadcast_int(const int32_t& x) { return _mm256_set1_epi32(x); }
  static F to_float(I x) { return _mm256_cvtepi32_ps(x); }
  static I times_bytes(const uint8_t* bytes, int32_t factor) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
    return _mm256_mullo_epi32(_mm256_cvtepu8_epi32(eight), _mm256_set1_epi32(factor));
  }

  static I broadcast_four_bytes(const uint8_t* at) {
    int32_t four;
    __builtin_memcpy(&four, at, 4);
    return _mm256_set1_epi32(four);
  }

  // sum + the products of pairs of 16-bit integers.
  static I add_products(I sum, I a, I b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }

  // Calls part(v, line) for the `lines` lines of 64 bytes and their halves.  Several rows take one
  // half after the other: the rows' integers are read twice, and the sums stay in registers.
  template <bool kHalves, int kLines, class Part>
  static MOE_INLINE void for_lines(const Part& part) {
    if constexpr (kHalves) {
      unrolled<2>([&](auto v) MOE_INLINE {
#pragma GCC unroll 1
        for (size_t line = 0; line < kLines; ++line) part(std::integral_constant<int, v>{}, line);
      });
    } else {
#pragma GCC unroll 1
      for (size_t line = 0; line < kLines; ++line)
        unrolled<2>([&](auto v) MOE_INLINE { part(v, line); });
    }
  }

  // Four columns of half a panel, bytes, times words of rows, `offset` bytes from their place.  Bytes
  // 0 and 2 of each four are the low bytes of two words, 1 and 3 the high ones.
  template <int MR>
  static MOE_INLINE void add_words(I bytes, const uint8_t* const (&integers)[MR], size_t offset,
                                   size_t v, I (&dot)[MR][2]) {
    const I even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
    const I odd = _mm256_srli_epi16(bytes, 8);
    unrolled<MR>([&](auto m) MOE_INLINE {
      const uint8_t* x = integers[m] + offset;
      dot[m][v] = add_products(dot[m][v], even, broadcast_four_bytes(x));
      dot[m][v] = add_products(dot[m][v], odd, broadcast_four_bytes(x + 4));
    });
  }

  // dot [p][m] += 32 columns of the 16 rows of panel p times those of row m.
  template <Format kFormat, int MR, int NP>
  static MOE_INLINE void dot_words(const uint8_t* const (&panels)[NP],
                                   const uint8_t* const (&integers)[MR], I (&dot)[NP][MR][2]) {
    const I nibble = _mm256_set1_epi8(15);
    for_lines<NP == 1, kFormat == Format::int8 ? 8 : 4>([&](auto v, size_t line) MOE_INLINE {
      unrolled<NP>([&](auto p) MOE_INLINE {
        const I bytes = load_int(panels[p] + line * 64 + v * 32);
        if constexpr (kFormat == Format::int8) {
          add_words<MR>(bytes, integers, line * 8, v, dot[p]);
        } else {
          const I high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
          add_words<MR>(_mm256_and_si256(bytes, nibble), integers, line * 16, v, dot[p]);
          add_words<MR>(high, integers, line * 16 + 8, v, dot[p]);
        }
      });
    });
  }

  // The same with bytes of rows.  Eight pairs of products, each at most 15 * 127 * 2, stay within 16
  // bits: 30480.
  template <Format kFormat, int MR, int NP>
  static MOE_INLINE void dot_bytes(const uint8_t* const (&panels)[NP],
                                   const uint8_t* const (&integers)[MR], I (&dot)[NP][MR][2]) {
    const I nibble = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    I pairs[NP][MR][2] = {};
    for_lines<NP == 1, 4>([&](auto v, size_t line) MOE_INLINE {
      unrolled<NP>([&](auto p) MOE_INLINE {
        const I bytes = load_int(panels[p] + line * 64 + v * 32);
        const I low = _mm256_and_si256(bytes, nibble);
        const I high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
        unrolled<MR>([&](auto m) MOE_INLINE {
          const uint8_t* x = integers[m] + line * 8;
          I& sum = pairs[p][m][v];
          sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(low, broadcast_four_bytes(x)));
          sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(high, broadcast_four_bytes(x + 4)));
        });
      });
    });
    unrolled<NP * MR * 2>([&](auto i) MOE_INLINE {
      constexpr int p = i / (MR * 2), m = i / 2 % MR, v = i % 2;
      dot[p][m][v] = add_products(dot[p][m][v], pairs[p][m][v], one);
    });
  }
};

#include "rows.inc.h"
#include "tiles.inc.h"
#include "attention.inc.h"
#include "heads.inc.h"

}  // namespace

const Isa kAvx2 = {"avx2", row_bytes, row_is_plain, prepare,
                   multiply, activate, attend, turn_heads};

}  // namespace moe
