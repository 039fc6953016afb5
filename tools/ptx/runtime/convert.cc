// cvt: by way of a 64-bit integer or a double, and rounded once.
#include <limits>

#include "float_types.h"

namespace ptx {

template <class T, class Register>
void widen(Lanes<s64>& wide, const Register* a) {
  for (int i = 0; i < kLanes; ++i) wide.v[i] = static_cast<s64>(static_cast<T>(a[i]));
}

template <class T>
T saturated(s64 value, bool from_unsigned) {
  using Limits = std::numeric_limits<T>;
  if (from_unsigned) return u64(value) > u64(Limits::max()) ? Limits::max() : static_cast<T>(value);
  if (value < 0 && !Limits::is_signed) return 0;
  if (sizeof(T) == 8) return static_cast<T>(value);
  return value < s64(Limits::min())   ? Limits::min()
         : value > s64(Limits::max()) ? Limits::max()
                                      : static_cast<T>(value);
}

template <class T, class Register>
void narrow(const Mask& m, Register* d, const Lanes<s64>& wide, bool from_unsigned, bool saturate) {
  if (!saturate) return each(m, d, [&](int i) { return Register(static_cast<T>(wide.v[i])); });
  each_active(m.bits, [&](int i) { d[i] = Register(saturated<T>(wide.v[i], from_unsigned)); });
}

template <class F>
void widen_float(Lanes<double>& wide, const typename F::Bits* a) {
  for (int i = 0; i < kLanes; ++i) wide.v[i] = Of<F>::load(a[i]);
}

template <class F>
typename F::Bits stored(double x, Round round) {
  if constexpr (sizeof(typename F::Bits) == 2) return Of<F>::store(x, round);
  if constexpr (sizeof(typename F::Bits) == 8) return Of<F>::store(x);
  if (round == Round::none || round == Round::rn) return Of<F>::store(static_cast<float>(x));
  return Of<F>::store(static_cast<float>(onto(kF32, x, round)));
}

template <class F>
void narrow_float(const Mask& m, typename F::Bits* d, const Lanes<double>& wide, Round round, Clip how) {
  each_active(m.bits,
              [&](int i) { d[i] = stored<F>(wide.v[i], round == Round::none ? Round::rn : round); });
  if (how != Clip::none) clip<F>(m, how, d);
}

// The bits that TF32 lacks are zero.
void narrow_tf32(const Mask& m, u32* d, const Lanes<double>& wide, Round round) {
  each_active(m.bits,
              [&](int i) { d[i] = Of<F32>::store(static_cast<float>(onto(kTF32, wide.v[i], round))); });
}

void to_double(Lanes<double>& wide, const Lanes<s64>& whole, bool from_unsigned, bool odd) {
  for (int i = 0; i < kLanes; ++i) {
    const s64 value = whole.v[i];
    const bool negative = !from_unsigned && value < 0;
    const u64 size = negative ? 0 - u64(value) : u64(value);
    double x = static_cast<double>(size);
    if (odd && size >> 53)
      x = odd_sum(static_cast<double>(size & ~u64(2047)), static_cast<double>(size & 2047));
    wide.v[i] = negative ? -x : x;
  }
}

template <class T>
void to_integer(Lanes<s64>& whole, const Lanes<double>& wide, Round round, bool from_double) {
  using Limits = std::numeric_limits<T>;
  // What a NaN becomes depends on the types: 0, or the top bit.
  const s64 of_nan = from_double || sizeof(T) == 8 ? s64(T(1) << (8 * sizeof(T) - 1)) : 0;
  for (int i = 0; i < kLanes; ++i) {
    const double x = to_integral(wide.v[i], round);
    if (x != x)
      whole.v[i] = of_nan;
    else if (x <= double(Limits::min()))
      whole.v[i] = s64(Limits::min());
    else if (x >= double(Limits::max()))
      whole.v[i] = s64(Limits::max());
    else
      whole.v[i] = static_cast<s64>(static_cast<T>(x));
  }
}

void to_integral(Lanes<double>& wide, Round round) {
  for (int i = 0; i < kLanes; ++i) wide.v[i] = to_integral(wide.v[i], round);
}

void merge_halves(const Mask& m, u32* d, const u16* high, const u16* low) {
  each(m, d, [&](int i) { return u32(high[i]) << 16 | low[i]; });
}

static u32 e4m3(double x) {
  if (x != x) return 0x7f;
  const u32 sign = std::signbit(x) ? 0x80 : 0;
  double size = std::fabs(onto(kE4M3, x, Round::rn));
  if (size > kE4M3.largest) size = kE4M3.largest;  // .satfinite
  if (size < 0x1p-6) return sign | static_cast<u32>(size * 512);
  int exponent;
  const double half = std::frexp(size, &exponent);
  return sign | u32(exponent + 6) << 3 | static_cast<u32>((half * 2 - 1) * 8);
}

void narrow_e4m3x2(const Mask& m, u16* d, const Lanes<double>& high, const Lanes<double>& low) {
  each_active(m.bits, [&](int i) { d[i] = static_cast<u16>(e4m3(high.v[i]) << 8 | e4m3(low.v[i])); });
}

static u32 f16_of_e4m3(u32 bits) {
  const u32 exponent = bits >> 3 & 15, fraction = bits & 7;
  if ((bits & 0x7f) == 0x7f) return 0x7fff;
  const double size = exponent ? std::ldexp(8 + fraction, int(exponent) - 10) : fraction / 512.0;
  return Of<F16>::store(bits & 0x80 ? -size : size);
}

void widen_e4m3x2(const Mask& m, u32* d, const u16* a) {
  each_active(m.bits, [&](int i) { d[i] = f16_of_e4m3(a[i] >> 8) << 16 | f16_of_e4m3(a[i] & 0xff); });
}

#define PTX_WIDEN(T, Register)                          \
  template void widen<T>(Lanes<s64>&, const Register*); \
  template void narrow<T>(const Mask&, Register*, const Lanes<s64>&, bool, bool);
#define PTX_REGISTERS(T) PTX_WIDEN(T, u8) PTX_WIDEN(T, u16) PTX_WIDEN(T, u32) PTX_WIDEN(T, u64)
#define PTX_FLOAT(F)                                            \
  template void widen_float<F>(Lanes<double>&, const F::Bits*); \
  template void narrow_float<F>(const Mask&, F::Bits*, const Lanes<double>&, Round, Clip);
#define PTX_TO(T) template void to_integer<T>(Lanes<s64>&, const Lanes<double>&, Round, bool);

PTX_REGISTERS(u8)
PTX_REGISTERS(s8) PTX_REGISTERS(u16) PTX_REGISTERS(s16) PTX_REGISTERS(u32) PTX_REGISTERS(s32)
    PTX_REGISTERS(u64) PTX_REGISTERS(s64) PTX_FLOAT(F32) PTX_FLOAT(F32Z) PTX_FLOAT(F64) PTX_FLOAT(F16)
        PTX_FLOAT(BF16) PTX_TO(u8) PTX_TO(s8) PTX_TO(u16) PTX_TO(s16) PTX_TO(u32) PTX_TO(s32) PTX_TO(u64)
            PTX_TO(s64)

}  // namespace ptx
