// The float types of PTX: their bits, and how a number becomes one.
//
// A NaN that arithmetic makes is the type's canonical one, as the PTX ISA says: payloads are lost.
#ifndef MOE_EXPORT_TOOLS_PTX_FLOAT_TYPES_H_
#define MOE_EXPORT_TOOLS_PTX_FLOAT_TYPES_H_

#include <cmath>
#include <limits>

#include "each.h"
#include "ops.h"

namespace ptx {

// A type of `significand` bits (the hidden one too) whose smallest step is 2^least.
struct Grid {
  int significand, least;
  double largest;
};
constexpr Grid kF32 = {24, -149, 0x1.fffffep127};
constexpr Grid kTF32 = {11, -136, 0x1.ffcp127};
constexpr Grid kF16 = {11, -24, 65504};
constexpr Grid kBF16 = {8, -133, 0x1.fep127};
constexpr Grid kE4M3 = {4, -9, 448};

inline double to_integral(double x, Round round) {
  switch (round) {
    case Round::rz:
    case Round::rzi: return std::trunc(x);
    case Round::rm:
    case Round::rmi: return std::floor(x);
    case Round::rp:
    case Round::rpi: return std::ceil(x);
    case Round::rna: return std::round(x);
    default: return std::nearbyint(x);  // the mode is never changed: to nearest, ties to even
  }
}

// x on the grid, as a double; infinite where it is too large for the mode.
inline double onto(const Grid& grid, double x, Round round) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  const int step = exponent - grid.significand > grid.least ? exponent - grid.significand : grid.least;
  const double rounded = std::ldexp(to_integral(std::ldexp(x, -step), round), step);
  if (std::fabs(rounded) <= grid.largest) return std::copysign(rounded, x);
  const bool clamps =
      round == Round::rz || (round == Round::rm && x > 0) || (round == Round::rp && x < 0);
  return std::copysign(clamps ? grid.largest : HUGE_VAL, x);
}

inline u32 flushed(u32 bits) {
  return bits & 0x7f800000 ? bits : bits & 0x80000000;
}

// Round-to-odd: the sum a + b keeps in its last bit that something was lost.
inline double odd_sum(double a, double b) {
  const double sum = a + b, part = sum - a, lost = (a - (sum - part)) + (b - part);
  if (lost == 0 || !std::isfinite(sum)) return sum;
  u64 bits = bits_as<u64>(sum);
  if (!(bits & 1)) bits += (lost > 0) == (sum > 0) ? 1 : -1;
  return bits_as<double>(bits);
}

template <class F>
struct Of;

template <>
struct Of<F32> {
  using Value = float;
  static float load(u32 bits) { return bits_as<float>(bits); }
  static u32 store(float x) { return x != x ? 0x7fffffff : bits_as<u32>(x); }
  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
};

template <>
struct Of<F32Z> {
  using Value = float;
  static float load(u32 bits) { return bits_as<float>(flushed(bits)); }
  static u32 store(float x) { return x != x ? 0x7fffffff : flushed(bits_as<u32>(x)); }
  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
};

template <>
struct Of<F64> {
  using Value = double;
  static double load(u64 bits) { return bits_as<double>(bits); }
  static u64 store(double x) { return x != x ? 0x7fffffffffffffff : bits_as<u64>(x); }
  static double fma(double a, double b, double c) { return std::fma(a, b, c); }
};

// Products of two such numbers are exact in a double, and sums rounded to odd can be rounded again.
struct Small {
  using Value = double;
  static double fma(double a, double b, double c) { return odd_sum(a * b, c); }
};

template <>
struct Of<BF16> : Small {
  static double load(u16 bits) { return bits_as<float>(u32(bits) << 16); }
  static u16 store(double x, Round round = Round::rn) {
    if (x != x) return 0x7fff;
    const float f = static_cast<float>(x);
    u32 bits = bits_as<u32>(f);
    if (round == Round::rn && f == x) return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return bits_as<u32>(static_cast<float>(onto(kBF16, x, round))) >> 16;
  }
};

template <>
struct Of<F16> : Small {
  static double load(u16 bits) {
    const u32 exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return fraction ? NAN : bits >> 15 ? -HUGE_VAL : HUGE_VAL;
    const float size =
        exponent ? bits_as<float>((exponent + 112) << 23 | fraction << 13) : fraction * 0x1p-24f;
    return bits >> 15 ? -size : size;
  }
  static u16 store(double x, Round round = Round::rn) {
    if (x != x) return 0x7fff;
    const double rounded = onto(kF16, x, round), size = std::fabs(rounded);
    const u16 sign = std::signbit(x) ? 0x8000 : 0;
    if (size == HUGE_VAL) return sign | 0x7c00;
    if (size < 0x1p-14) return sign | static_cast<u16>(size * 0x1p24);
    const u32 bits = bits_as<u32>(static_cast<float>(size));
    return sign | static_cast<u16>((bits >> 13) - (112 << 10));
  }
};

template <class Half>
struct Two {
  using One = Of<Half>;
};
template <>
struct Of<F16X2> : Two<F16> {};
template <>
struct Of<BF16X2> : Two<BF16> {};

}  // namespace ptx

#endif  // MOE_EXPORT_TOOLS_PTX_FLOAT_TYPES_H_
