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
  // 12 rows x 2 panels, or 6 x 4, are 24 sums; the rest is for weights and rows.
  static constexpr int kMaxRows = 12, kMaxPanels = 4, kMaxIntRows = 12;
  static constexpr bool kHasBf16 = MOE_EXPORT_AVX512_DOT;

  static constexpr int panels_of(int rows) { return rows <= 6 ? 4 : 2; }

  // Without dot products of bytes, int8 rows are 16-bit integers, as for AVX2.
  static constexpr size_t kIntegerBytes(Format weights) {
    return weights == Format::int8 && !MOE_EXPORT_AVX512_DOT ? 2 : 1;
  }

  static F zero() { return _mm512_setzero_ps(); }
  static F broadcast(const float& x) { return _mm512_set1_ps(x); }
  static F load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(float* at, F x) { _mm512_storeu_ps(at, x); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
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

  // As 16-bit integers, each four columns c are in the order c, c + 2, c + 1, c + 3.
  static void store_integers(Format weights, const int32_t* q, uint8_t* to) {
    if (kIntegerBytes(weights) == 1) {
      for (size_t c = 0; c < kRowBlock; ++c) to[c] = uint8_t(q[c]);
      return;
    }
    int16_t words[kRowBlock];
    for (size_t c = 0; c < kRowBlock; ++c) {
      const size_t place = (c & 1) * 2 + (c >> 1 & 1);
      words[c / 4 * 4 + place] = int16_t(q[c]);
    }
    __builtin_memcpy(to, words, sizeof words);
  }

  static I broadcast_four_bytes(const uint8_t* at) {
    int32_t four;
    __builtin_memcpy(&four, at, 4);
    return _mm512_set1_epi32(four);
  }

  // dot [m] += 32 columns of a panel's 16 rows times those of row m.
  template <Format kFormat, int MR>
  static void dot_block(const uint8_t* panel, const uint8_t* const (&integers)[MR],
                        I (&dot)[MR][1]) {
    if constexpr (kFormat == Format::int8)
      dot_int8<MR>(panel, integers, dot);
    else
      dot_int4<MR>(panel, integers, dot);
  }

#if MOE_EXPORT_AVX512_DOT
  template <int MR>
  static MOE_INLINE void dot_int8(const uint8_t* panel, const uint8_t* const (&integers)[MR],
                                  I (&dot)[MR][1]) {
    for (size_t four = 0; four < 8; ++four) {
      const I bytes = load_int(panel + four * 64);
      unrolled<MR>([&](auto m) MOE_INLINE {
        dot[m][0] =
            _mm512_dpbusd_epi32(dot[m][0], bytes, broadcast_four_bytes(integers[m] + four * 4));
      });
    }
  }

  template <int MR>
  static MOE_INLINE void dot_int4(const uint8_t* panel, const uint8_t* const (&integers)[MR],
                                  I (&dot)[MR][1]) {
    const I nibble = _mm512_set1_epi8(15);
    for (size_t eight = 0; eight < 4; ++eight) {
      const I bytes = load_int(panel + eight * 64);
      const I low = _mm512_and_si512(bytes, nibble);
      const I high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
      unrolled<MR>([&](auto m) MOE_INLINE {
        const uint8_t* x = integers[m] + eight * 8;
        dot[m][0] = _mm512_dpbusd_epi32(dot[m][0], low, broadcast_four_bytes(x));
        dot[m][0] = _mm512_dpbusd_epi32(dot[m][0], high, broadcast_four_bytes(x + 4));
      });
    }
  }
#else
  // sum + the products of pairs of 16-bit integers.
  static I add_products(I sum, I a, I b) { return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b)); }

  // Bytes 0 and 2 of each four are the low bytes of two words, 1 and 3 the high ones.
  template <int MR>
  static MOE_INLINE void dot_int8(const uint8_t* panel, const uint8_t* const (&integers)[MR],
                                  I (&dot)[MR][1]) {
    const I low = _mm512_set1_epi16(0xff);
    for (size_t four = 0; four < 8; ++four) {
      const I bytes = load_int(panel + four * 64);
      const I even = _mm512_and_si512(bytes, low), odd = _mm512_srli_epi16(bytes, 8);
      unrolled<MR>([&](auto m) MOE_INLINE {
        const uint8_t* x = integers[m] + four * 8;
        dot[m][0] = add_products(dot[m][0], even, broadcast_four_bytes(x));
        dot[m][0] = add_products(dot[m][0], odd, broadcast_four_bytes(x + 4));
      });
    }
  }

  // Eight pairs of products, each at most 15 * 127 * 2, stay within 16 bits: 30480.
  template <int MR>
  static MOE_INLINE void dot_int4(const uint8_t* panel, const uint8_t* const (&integers)[MR],
                                  I (&dot)[MR][1]) {
    const I nibble = _mm512_set1_epi8(15), one = _mm512_set1_epi16(1);
    I pairs[MR];
    unrolled<MR>([&](auto m) MOE_INLINE { pairs[m] = _mm512_setzero_si512(); });
    for (size_t eight = 0; eight < 4; ++eight) {
      const I bytes = load_int(panel + eight * 64);
      const I low = _mm512_and_si512(bytes, nibble);
      const I high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
      unrolled<MR>([&](auto m) MOE_INLINE {
        const uint8_t* x = integers[m] + eight * 8;
        pairs[m] = _mm512_add_epi16(pairs[m], _mm512_maddubs_epi16(low, broadcast_four_bytes(x)));
        pairs[m] =
            _mm512_add_epi16(pairs[m], _mm512_maddubs_epi16(high, broadcast_four_bytes(x + 4)));
      });
    }
    unrolled<MR>([&](auto m) MOE_INLINE { dot[m][0] = add_products(dot[m][0], pairs[m], one); });
  }
#endif
};

#include "rows.inc.h"
#include "tiles.inc.h"

}  // namespace
}  // namespace moe
