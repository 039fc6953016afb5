// 32 registers of 16 floats: a panel's row is one register.  MOE_EXPORT_AVX512_DOT says whether the
// CPU has dot products of bfloat16 (BF16) and of bytes (VNNI).
#include <immintrin.h>

#include <utility>

#include "isa.h"
#include "panels.h"

namespace moe {
namespace {

#include "unrolled.inc.h"

struct Simd {
  using F = __m512;
  using I = __m512i;
  static constexpr int kLanes = 16, kVectors = 1;
  // 6 rows x 4 panels are 24 sums; the rest is for weights and rows.  8 x 2 lead 12 x 2 by a quarter
  // (Zen 5): more rows than 8 have no general registers for their places.
  static constexpr int kMaxRows = 8, kMaxPanels = 4;
  // 7 rows x 2 panels are 14 dot products and as many sums.
  static constexpr int kMaxIntRows = 7, kMaxDots = 16;
  static constexpr bool kHasBf16 = MOE_EXPORT_AVX512_DOT;

  static constexpr int panels_of(int rows) { return rows <= 6 ? 4 : 2; }

  // Without VNNI only int4 has one, as with AVX2.
  static constexpr bool has_byte_dot(Format weights) {
    return weights == Format::int4 || MOE_EXPORT_AVX512_DOT;
  }

  static F zero() { return _mm512_setzero_ps(); }
  static F broadcast(const float& x) { return _mm512_set1_ps(x); }
  static F load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(float* at, F x) { _mm512_storeu_ps(at, x); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(F x) { return _mm512_reduce_add_ps(x); }

  // Sums that a tile of dot products keeps: with 8 keys and a query they are 25 registers.
  static constexpr int kSums = 16;
  static constexpr bool kSumsAtOnce = true;
  // out [n] = sum(x [n]), and in its order: halves are added, and halves of those.  Three instructions for
  // each of 16, where sum() takes eleven.
  static MOE_INLINE void sum_each(const F (&x)[16], float* out) {
    F eights[8], fours[4], twos[2];
    unrolled<8>([&](auto i) MOE_INLINE {
      constexpr int first = i / 2 + i % 2 * 8;  // so that sums leave in the order of x
      const F a = x[first], b = x[first + 4];
      eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    });
    unrolled<4>([&](auto i) MOE_INLINE {
      const F a = eights[2 * i], b = eights[2 * i + 1];
      fours[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    });
    unrolled<2>([&](auto i) MOE_INLINE {
      const F a = fours[2 * i], b = fours[2 * i + 1];
      twos[i] = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
    });
    store(out, _mm512_add_ps(_mm512_shuffle_ps(twos[0], twos[1], 0x88),
                             _mm512_shuffle_ps(twos[0], twos[1], 0xdd)));
  }

  static void prefetch(const uint8_t* at) { __builtin_prefetch(at); }
  static I load_int(const uint8_t* at) { return _mm512_loadu_si512(at); }
  static __m256i load_half(const uint8_t* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  }

  static void load_f32(const uint8_t* at, F (&w)[1]) { w[0] = _mm512_castsi512_ps(load_int(at)); }
  static void load_f16(const uint8_t* at, F (&w)[1]) { w[0] = _mm512_cvtph_ps(load_half(at)); }
  static void load_narrow(const uint8_t* at, F (&w)[1]) {
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_half(at)), 16));
  }
  // A pair of bfloat16 in 32 bits: the even column is the low half, moved up; the odd one is the
  // high half as it stands.
  static void load_bf16_even(const uint8_t* at, F (&w)[1]) {
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(load_int(at), 16));
  }
  static void load_bf16_odd(const uint8_t* at, F (&w)[1]) {
    const I high = _mm512_set1_epi32(int32_t(0xffff0000));
    w[0] = _mm512_castsi512_ps(_mm512_and_si512(load_int(at), high));
  }

#if MOE_EXPORT_AVX512_DOT
  static F dot_bf16(F x, F w, F sum) { return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w); }
#endif

  static I broadcast_int(const int32_t& x) { return _mm512_set1_epi32(x); }
  static F to_float(I x) { return _mm512_cvtepi32_ps(x); }
  static I times_bytes(const uint8_t* bytes, int32_t factor) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    return _mm512_mullo_epi32(_mm512_cvtepu8_epi32(sixteen), _mm512_set1_epi32(factor));
  }

  static I broadcast_four_bytes(const uint8_t* at) {
    int32_t four;
    __builtin_memcpy(&four, at, 4);
    return _mm512_set1_epi32(four);
  }

  // sum + the products of pairs of 16-bit integers.
  static I add_products(I sum, I a, I b) {
#if MOE_EXPORT_AVX512_DOT
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
  }

  // Bytes 0 and 2 of each four as words, and 1 and 3.
  static I even_bytes(I bytes) { return _mm512_and_si512(bytes, _mm512_set1_epi16(0xff)); }
  static I odd_bytes(I bytes) { return _mm512_srli_epi16(bytes, 8); }

  // dot [p][m] += pairs of words of panel p times those of row m, `offset` bytes from its place.  A
  // row is loaded once for all panels, and one at a time, so that the dot products stay in registers.
  template <int MR, int NP>
  static MOE_INLINE void add_words(const I (&words)[NP], const uint8_t* const (&integers)[MR],
                                   size_t offset, I (&dot)[NP][MR][1]) {
    unrolled<MR>([&](auto m) MOE_INLINE {
      const I row = broadcast_four_bytes(integers[m] + offset);
      unrolled<NP>([&](auto p) MOE_INLINE {
        dot[p][m][0] = add_products(dot[p][m][0], words[p], row);
      });
    });
  }

  // dot [p][m] += 32 columns of the 16 rows of panel p times those of row m.  Unrolled whole: in a loop
  // GCC copies every dot product to another register and back.
  template <Format kFormat, int MR, int NP>
  static MOE_INLINE void dot_words(const uint8_t* const (&panels)[NP],
                                   const uint8_t* const (&integers)[MR], I (&dot)[NP][MR][1]) {
    constexpr size_t kGroups = kFormat == Format::int8 ? 1 : 2;  // of four columns, in 64 bytes
    const I nibble = _mm512_set1_epi8(15);
    unrolled<8>([&](auto group) MOE_INLINE {
      const auto bytes = [&](auto p) MOE_INLINE {
        const I line = load_int(panels[p] + group / kGroups * 64);
        if constexpr (kFormat == Format::int8) return line;
        return _mm512_and_si512(group % 2 ? _mm512_srli_epi16(line, 4) : line, nibble);
      };
      I words[NP];
      unrolled<NP>([&](auto p) MOE_INLINE { words[p] = even_bytes(bytes(p)); });
      add_words<MR, NP>(words, integers, group * 8, dot);
      unrolled<NP>([&](auto p) MOE_INLINE { words[p] = odd_bytes(bytes(p)); });
      add_words<MR, NP>(words, integers, group * 8 + 4, dot);
    });
  }

#if MOE_EXPORT_AVX512_DOT
  // The same with bytes of rows.
  template <Format kFormat, int MR, int NP>
  static MOE_INLINE void dot_bytes(const uint8_t* const (&panels)[NP],
                                   const uint8_t* const (&integers)[MR], I (&dot)[NP][MR][1]) {
    const I nibble = _mm512_set1_epi8(15);
    for (size_t line = 0; line < (kFormat == Format::int8 ? 8 : 4); ++line)
      unrolled<NP>([&](auto p) MOE_INLINE {
        const I bytes = load_int(panels[p] + line * 64);
        const I low = kFormat == Format::int8 ? bytes : _mm512_and_si512(bytes, nibble);
        const I high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
        unrolled<MR>([&](auto m) MOE_INLINE {
          const uint8_t* x = integers[m] + line * (kFormat == Format::int8 ? 4 : 8);
          I& sum = dot[p][m][0];
          sum = _mm512_dpbusd_epi32(sum, low, broadcast_four_bytes(x));
          if constexpr (kFormat == Format::int4)
            sum = _mm512_dpbusd_epi32(sum, high, broadcast_four_bytes(x + 4));
        });
      });
  }
#else
  // The same with bytes of rows.  Eight pairs of products, each at most 15 * 127 * 2, stay within 16
  // bits: 30480.
  template <Format kFormat, int MR, int NP>
  static MOE_INLINE void dot_bytes(const uint8_t* const (&panels)[NP],
                                   const uint8_t* const (&integers)[MR], I (&dot)[NP][MR][1]) {
    const I nibble = _mm512_set1_epi8(15), one = _mm512_set1_epi16(1);
    I pairs[NP][MR] = {};
    for (size_t line = 0; line < 4; ++line)
      unrolled<NP>([&](auto p) MOE_INLINE {
        const I bytes = load_int(panels[p] + line * 64);
        const I low = _mm512_and_si512(bytes, nibble);
        const I high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
        unrolled<MR>([&](auto m) MOE_INLINE {
          const uint8_t* x = integers[m] + line * 8;
          I& sum = pairs[p][m];
          sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(low, broadcast_four_bytes(x)));
          sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(high, broadcast_four_bytes(x + 4)));
        });
      });
    unrolled<NP * MR>([&](auto i) MOE_INLINE {
      I& sum = dot[i / MR][i % MR][0];
      sum = add_products(sum, pairs[i / MR][i % MR], one);
    });
  }
#endif
};

#include "rows.inc.h"
#include "tiles.inc.h"
#include "attention.inc.h"
#include "heads.inc.h"

}  // namespace
}  // namespace moe
