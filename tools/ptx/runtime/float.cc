// Float instructions.  What the ISA calls approximate is rounded once from a double: within the error
// that it allows, and better than a device.
#include <type_traits>

#include "float_types.h"

namespace ptx {

template <class F>
constexpr bool kTwo = std::is_same_v<F, F16X2> || std::is_same_v<F, BF16X2>;

// One register of F through a function of values: its halves apart where it holds two.
template <class F, class Function, class... Registers>
typename F::Bits apply(Function function, Registers... bits) {
  if constexpr (kTwo<F>) {
    using One = typename Of<F>::One;
    const u32 low = One::store(function(One::load(static_cast<u16>(bits))...));
    const u32 high = One::store(function(One::load(static_cast<u16>(bits >> 16))...));
    return high << 16 | low;
  } else {
    return Of<F>::store(function(Of<F>::load(bits)...));
  }
}

template <class F>
constexpr typename F::Bits sign_bits() {
  return kTwo<F>
             ? static_cast<typename F::Bits>(0x80008000u)
             : static_cast<typename F::Bits>(typename F::Bits(1) << (8 * sizeof(typename F::Bits) - 1));
}

template <class F>
void fneg(const Mask& m, typename F::Bits* d, const typename F::Bits* a) {
  each(m, d, [&](int i) { return a[i] ^ sign_bits<F>(); });
  if (std::is_same_v<F, F32Z>) each(m, d, [&](int i) { return flushed(d[i]); });
}

template <class F>
void fabs_(const Mask& m, typename F::Bits* d, const typename F::Bits* a) {
  each(m, d, [&](int i) { return a[i] & ~sign_bits<F>(); });
  if (std::is_same_v<F, F32Z>) each(m, d, [&](int i) { return flushed(d[i]); });
}

#define PTX_BINARY(name, expression)                                                                    \
  template <class F>                                                                                    \
  void name(const Mask& m, typename F::Bits* d, const typename F::Bits* a, const typename F::Bits* b) { \
    each(m, d, [&](int i) {                                                                             \
      return apply<F>([](auto x, auto y) { return decltype(x)(expression); }, a[i], b[i]);              \
    });                                                                                                 \
  }

// A bf16 or f16 sum, product or quotient in double is far from a midpoint of the type unless exact.
PTX_BINARY(fadd, x + y)
PTX_BINARY(fsub, x - y)
PTX_BINARY(fmul, x* y)
PTX_BINARY(fdiv, x / y)

// -0 is less than +0, and a NaN gives way to a number.
template <class T>
T lesser(T x, T y) {
  if (x != x) return y;
  if (y != y) return x;
  return x < y || (x == y && std::signbit(x)) ? x : y;
}
template <class T>
T greater(T x, T y) {
  if (x != x) return y;
  if (y != y) return x;
  return x > y || (x == y && !std::signbit(x)) ? x : y;
}
PTX_BINARY(fmin_, lesser(x, y))
PTX_BINARY(fmax_, greater(x, y))
PTX_BINARY(fmin_nan, x != x || y != y ? NAN : lesser(x, y))
PTX_BINARY(fmax_nan, x != x || y != y ? NAN : greater(x, y))

#define PTX_FUNCTION(name, expression)                                       \
  template <class F>                                                         \
  void name(const Mask& m, typename F::Bits* d, const typename F::Bits* a) { \
    each_active(m.bits, [&](int i) {                                         \
      d[i] = apply<F>(                                                       \
          [](auto value) {                                                   \
            const double x = value;                                          \
            return decltype(value)(expression);                              \
          },                                                                 \
          a[i]);                                                             \
    });                                                                      \
  }
PTX_FUNCTION(rcp, 1 / x)
PTX_FUNCTION(sqrt_, std::sqrt(x))
PTX_FUNCTION(rsqrt, 1 / std::sqrt(x))
PTX_FUNCTION(ex2, std::exp2(x))
PTX_FUNCTION(lg2, std::log2(x))
PTX_FUNCTION(tanh_, std::tanh(x))
PTX_FUNCTION(sin_, std::sin(x))
PTX_FUNCTION(cos_, std::cos(x))

template <class F>
void fma_(const Mask& m, typename F::Bits* d, const typename F::Bits* a, const typename F::Bits* b,
          const typename F::Bits* c) {
  each(m, d, [&](int i) {
    return apply<F>(
        [](auto x, auto y, auto z) {
          if constexpr (kTwo<F>)
            return Of<F>::One::fma(x, y, z);
          else
            return Of<F>::fma(x, y, z);
        },
        a[i], b[i], c[i]);
  });
}

template <class F>
void clip(const Mask& m, Clip how, typename F::Bits* d) {
  const bool sat = how == Clip::sat;
  each_active(m.bits, [&](int i) {
    d[i] = apply<F>(
        [=](auto x) {
          if (x != x) return sat ? decltype(x)(0) : x;  // .sat makes a NaN +0
          if (x <= 0) return decltype(x)(0);
          return sat && x > 1 ? decltype(x)(1) : x;
        },
        d[i]);
  });
}

void copysign_(const Mask& m, u32* d, const u32* a, const u32* b) {
  each(m, d, [&](int i) { return (a[i] & 0x80000000) | (b[i] & 0x7fffffff); });
}

template <class F>
void setp_float(const Mask& m, Compare how, s32* p, const typename F::Bits* a,
                const typename F::Bits* b) {
  const auto compare = [&](auto holds) {
    each(m, p, [&](int i) { return -s32(holds(Of<F>::load(a[i]), Of<F>::load(b[i]))); });
  };
  switch (how) {
    case Compare::eq: return compare([](auto x, auto y) { return x == y; });
    case Compare::ne: return compare([](auto x, auto y) { return x < y || x > y; });
    case Compare::lt: return compare([](auto x, auto y) { return x < y; });
    case Compare::le: return compare([](auto x, auto y) { return x <= y; });
    case Compare::gt: return compare([](auto x, auto y) { return x > y; });
    case Compare::ge: return compare([](auto x, auto y) { return x >= y; });
    case Compare::equ: return compare([](auto x, auto y) { return !(x < y || x > y); });
    case Compare::neu: return compare([](auto x, auto y) { return !(x == y); });
    case Compare::ltu: return compare([](auto x, auto y) { return !(x >= y); });
    case Compare::leu: return compare([](auto x, auto y) { return !(x > y); });
    case Compare::gtu: return compare([](auto x, auto y) { return !(x <= y); });
    case Compare::geu: return compare([](auto x, auto y) { return !(x < y); });
    case Compare::num: return compare([](auto x, auto y) { return x == x && y == y; });
    case Compare::nan: return compare([](auto x, auto y) { return x != x || y != y; });
  }
}

#define PTX_UNARY(name, F) template void name<F>(const Mask&, F::Bits*, const F::Bits*);
#define PTX_TWO(name, F) template void name<F>(const Mask&, F::Bits*, const F::Bits*, const F::Bits*);
#define PTX_ALL(F)                                                                                    \
  PTX_UNARY(fneg, F)                                                                                  \
  PTX_UNARY(fabs_, F) PTX_TWO(fadd, F) PTX_TWO(fsub, F) PTX_TWO(fmul, F) PTX_TWO(fdiv, F)             \
      PTX_TWO(fmin_, F) PTX_TWO(fmax_, F) PTX_TWO(fmin_nan, F) PTX_TWO(fmax_nan, F) PTX_UNARY(ex2, F) \
          PTX_UNARY(tanh_, F) template void                                                           \
          fma_<F>(const Mask&, F::Bits*, const F::Bits*, const F::Bits*, const F::Bits*);             \
  template void clip<F>(const Mask&, Clip, F::Bits*);
#define PTX_SINGLE(F) \
  PTX_UNARY(rcp, F)   \
  PTX_UNARY(sqrt_, F) PTX_UNARY(rsqrt, F) PTX_UNARY(lg2, F) PTX_UNARY(sin_, F) PTX_UNARY(cos_, F)
#define PTX_COMPARE(F) \
  template void setp_float<F>(const Mask&, Compare, s32*, const F::Bits*, const F::Bits*);

PTX_ALL(F32)
PTX_ALL(F32Z) PTX_ALL(F64) PTX_ALL(F16) PTX_ALL(BF16) PTX_ALL(F16X2) PTX_ALL(BF16X2) PTX_SINGLE(F32)
    PTX_SINGLE(F32Z) PTX_SINGLE(F64) PTX_COMPARE(F32) PTX_COMPARE(F32Z) PTX_COMPARE(F64) PTX_COMPARE(F16)
        PTX_COMPARE(BF16)

}  // namespace ptx
