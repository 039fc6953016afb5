// The level every CPU has: vectors of the compiler, 16 lanes wide, which it splits as it must.
#include <utility>

#include "isa.h"
#include "panels.h"

namespace moe {
namespace {

#include "unrolled.inc.h"

struct Simd {
  typedef float F __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  static constexpr int kLanes = 16, kVectors = 1;
  static constexpr int kMaxRows = 2, kMaxPanels = 1, kMaxIntRows = 2, kMaxDots = 4;
  static constexpr bool kHasBf16 = false;

  static constexpr int panels_of(int) { return 1; }
  static constexpr bool has_byte_dot(Format) { return false; }

  static F zero() { return F{}; }
  static F broadcast(float x) { return F{} + x; }
  static F load(const float* at) {
    F x;
    __builtin_memcpy(&x, at, 64);
    return x;
  }
  static void store(float* at, F x) { __builtin_memcpy(at, &x, 64); }
  static F mul(F a, F b) { return a * b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static constexpr int kSums = 16;  // that a tile of dot products keeps
  static constexpr bool kSumsAtOnce = false;
  static float sum(F x) {
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += x[i];
    return sum;
  }
  static void prefetch(const uint8_t* at) { __builtin_prefetch(at); }

  static void load_f32(const uint8_t* at, F (&w)[1]) { __builtin_memcpy(&w[0], at, 64); }
  static void load_f16(const uint8_t* at, F (&w)[1]) {
    for (int i = 0; i < 16; ++i) w[0][i] = float_of_half(at + 2 * i);
  }
  static void load_narrow(const uint8_t* at, F (&w)[1]) {
    for (int i = 0; i < 16; ++i) w[0][i] = float_of_bfloat16(at + 2 * i);
  }
  static void load_bf16_even(const uint8_t* at, F (&w)[1]) {
    for (int i = 0; i < 16; ++i) w[0][i] = float_of_bfloat16(at + 4 * i);
  }
  static void load_bf16_odd(const uint8_t* at, F (&w)[1]) { load_bf16_even(at + 2, w); }

  static I broadcast_int(const int32_t& x) { return I{} + x; }
  static F to_float(I x) { return __builtin_convertvector(x, F); }
  static I times_bytes(const uint8_t* bytes, int32_t factor) {
    I x;
    for (int i = 0; i < 16; ++i) x[i] = bytes[i] * factor;
    return x;
  }

  // dot [p][m] += 32 columns of the 16 rows of panel p times those of row m.
  template <Format kFormat, int MR, int NP>
  static void dot_words(const uint8_t* const (&panels)[NP], const uint8_t* const (&integers)[MR],
                        I (&dot)[NP][MR][1]) {
    for (int p = 0; p < NP; ++p)
      for (size_t c = 0; c < kRowBlock; ++c) {
        constexpr bool kInt8 = kFormat == Format::int8;
        const uint8_t* at = panels[p] + c / (kInt8 ? 4 : 8) * 64 + c % 4;
        const int shift = c % 8 >= 4 ? 4 : 0;
        I w;
        for (int i = 0; i < 16; ++i) w[i] = kInt8 ? at[4 * i] : at[4 * i] >> shift & 15;
        const size_t place = c / 4 * 4 + (c & 1) * 2 + (c >> 1 & 1);
        for (int m = 0; m < MR; ++m) {
          int16_t x;
          __builtin_memcpy(&x, integers[m] + 2 * place, 2);
          dot[p][m][0] += w * int32_t(x);
        }
      }
  }
};

#include "rows.inc.h"
#include "tiles.inc.h"
#include "attention.inc.h"
#include "heads.inc.h"

}  // namespace

const Isa kPortable = {"portable", row_bytes, row_is_plain, prepare,
                       multiply, activate, attend, turn_heads};

}  // namespace moe
