// mma.sync: products exact, and added to the accumulator in float32, one after the other in order of k.
//
// A device adds several products at once and truncates; both stay within the usual bound of a sum.
#include "float_types.h"
#include "launch.h"

namespace ptx {

template <class T>
struct Fragment;

template <>
struct Fragment<BF16> {
  using Sum = float;
  static constexpr int kPerRegister = 2;
  static float number(u32 bits, int i) { return bits_as<float>(i ? bits & 0xffff0000 : bits << 16); }
};
template <>
struct Fragment<F16> {
  using Sum = float;
  static constexpr int kPerRegister = 2;
  static float number(u32 bits, int i) {
    return static_cast<float>(Of<F16>::load(static_cast<u16>(bits >> 16 * i)));
  }
};
// A device does not look at the 13 low bits.
template <>
struct Fragment<TF32> {
  using Sum = float;
  static constexpr int kPerRegister = 1;
  static float number(u32 bits, int) { return bits_as<float>(bits & 0xffffe000); }
};
template <>
struct Fragment<S8> {
  using Sum = s32;
  static constexpr int kPerRegister = 4;
  static s32 number(u32 bits, int i) { return s8(bits >> 8 * i); }
};
template <>
struct Fragment<U8> {
  using Sum = s32;
  static constexpr int kPerRegister = 4;
  static s32 number(u32 bits, int i) { return u8(bits >> 8 * i); }
};

static float plus_product(float sum, float a, float b) {
  return std::fma(a, b, sum);
}
static s32 plus_product(s32 sum, s32 a, s32 b) {
  return s32(u32(sum) + u32(a * b));
}
static u32 sum_bits(float sum) {
  return Of<F32>::store(sum);
}
static u32 sum_bits(s32 sum) {
  return u32(sum);
}

template <class T, int K>
void mma(Warp& w, const Mask& m, const Site& site, u32* const* d, const u32* const* a,
         const u32* const* b, const u32* const* c) {
  using F = Fragment<T>;
  using Sum = typename F::Sum;
  constexpr int n = F::kPerRegister, kHalves = K / (4 * n);  // a register of four lanes spans 4 n of K
  require_whole_warp(w, m, site);
  Sum left[16][K], right[K][8], sum[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, at = lane % 4;
    for (int half = 0; half < kHalves; ++half) {
      for (int i = 0; i < n; ++i) {
        const int k = half * 4 * n + at * n + i;
        left[group][k] = F::number(a[2 * half][lane], i);
        left[group + 8][k] = F::number(a[2 * half + 1][lane], i);
        right[k][group] = F::number(b[half][lane], i);
      }
    }
    for (int i = 0; i < 4; ++i) sum[group + i / 2 * 8][2 * at + i % 2] = bits_as<Sum>(c[i][lane]);
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < K; ++k)
      for (int column = 0; column < 8; ++column)
        sum[row][column] = plus_product(sum[row][column], left[row][k], right[k][column]);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) d[i][lane] = sum_bits(sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
}

#define PTX_MMA(T, K)                                                                      \
  template void mma<T, K>(Warp&, const Mask&, const Site&, u32* const*, const u32* const*, \
                          const u32* const*, const u32* const*);
PTX_MMA(BF16, 16)
PTX_MMA(BF16, 8) PTX_MMA(F16, 16) PTX_MMA(F16, 8) PTX_MMA(TF32, 8) PTX_MMA(TF32, 4) PTX_MMA(S8, 32)
    PTX_MMA(S8, 16) PTX_MMA(U8, 32) PTX_MMA(U8, 16)

}  // namespace ptx
