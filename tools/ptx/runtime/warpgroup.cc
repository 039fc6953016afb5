// wgmma of sm_90a: products of 64 rows by four warps, results later.  The right side lies in shared
// memory, the left one there or in registers.
//
// A product is computed when it is waited for: a register that is read before has its old number, and
// shared memory that is written over before gives other numbers, or is a fault where a copy is on its
// way. Not modelled: fence.proxy.async and wgmma.fence, which order what the executor has in order
// anyway.
#include <algorithm>

#include "float_types.h"
#include "launch.h"

namespace ptx {

// The 64 bits that say where a matrix lies (PTX ISA, "Matrix Descriptor Format").
struct Descriptor {
  u32 start, leading, stride;  // bytes
  u32 row;                     // bytes of a row before the swizzle repeats: 16, 32, 64, 128

  explicit Descriptor(u64 bits)
      : start(u32(bits & 0x3fff) << 4),
        leading(u32(bits >> 16 & 0x3fff) << 4),
        stride(u32(bits >> 32 & 0x3fff) << 4) {
    const u32 mode = bits >> 62;
    row = mode == 0 ? 16 : 256u >> mode;
  }

  // 16-byte pieces of a row change places with the row's number: bits 4.. with bits 7..
  u32 swizzled(u32 address) const { return address ^ (address >> 3 & (row - 16)); }

  // Where 8 elements of 16 bits begin: `line` counts across K-major rows, `piece` along them.
  u32 k_major(u32 line, u32 piece) const {
    const u32 along = row == 16 ? piece * leading : piece * 16;
    return swizzled(start + line / 8 * stride + line % 8 * row + along);
  }

  // The same of a matrix whose rows are along K: piece `piece` of row k.
  u32 transposed(u32 k, u32 piece) const {
    const u32 pieces = row / 16;
    return swizzled(start + piece / pieces * leading + piece % pieces * 16 + k / 8 * stride +
                    k % 8 * row);
  }
};

constexpr int kK = 16;  // of 16-bit types

static float number(bool bf16, u16 bits) {
  return bf16 ? bits_as<float>(u32(bits) << 16) : static_cast<float>(Of<F16>::load(bits));
}

// numbers [kK][lines] of the matrix, from line `first` on.
static void read_matrix(Warp& w, const Site& site, u64 bits, bool transposed, bool bf16, u32 first,
                        u32 lines, float (*numbers)[256]) {
  const Descriptor at(bits);
  for (u32 line = first; line < first + lines; line += transposed ? 8 : 1) {
    for (u32 step = 0; step < (transposed ? kK : kK / 8); ++step) {
      const u32 address = transposed ? at.transposed(step, line / 8) : at.k_major(line, step);
      u16 eight[8];
      std::memcpy(eight, shared_bytes(w, site, address, 16), 16);
      for (u32 i = 0; i < 8; ++i) {
        const float x = number(bf16, eight[i]);
        if (transposed)
          numbers[step][line - first + i] = x;
        else
          numbers[8 * step + i][line - first] = x;
      }
    }
  }
}

// The same of 16 rows in registers, pairs of columns.
static void read_rows(const u32* const* registers, bool bf16, float (*numbers)[256]) {
  for (u32 i = 0; i < 4; ++i)
    for (u32 lane = 0; lane < kLanes; ++lane)
      for (u32 half = 0; half < 2; ++half) {
        const u32 row = lane / 4 + i % 2 * 8, k = lane % 4 * 2 + i / 2 * 8 + half;
        numbers[k][row] = number(bf16, u16(registers[i][lane] >> 16 * half));
      }
}

static void compute(Warp& w, const Product& p) {
  float left[kK][256], right[kK][256];
  static float sum[16][256];
  if (p.rows[0])
    read_rows(p.rows, p.bf16, left);
  else
    read_matrix(w, p.site, p.a, p.transpose_a, p.bf16, w.index % 4 * 16, 16, left);
  read_matrix(w, p.site, p.b, p.transpose_b, p.bf16, 0, p.columns, right);
  const auto each_sum = [&](auto function) {
    for (u32 i = 0; i < p.columns / 2; ++i)
      for (int lane = 0; lane < kLanes; ++lane)
        function(sum[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2], p.d[i][lane]);
  };
  each_sum([&](float& x, u32& d) { x = p.adds ? bits_as<float>(d) : 0.0f; });
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < kK; ++k)
      for (u32 column = 0; column < p.columns; ++column)
        sum[row][column] = std::fma(left[k][row], right[k][column], sum[row][column]);
  each_sum([&](float& x, u32& d) { d = Of<F32>::store(x); });
}

static u64 uniform(const Site& site, const u64* lanes) {
  for (int lane = 1; lane < kLanes; ++lane)
    if (lanes[lane] != lanes[0]) fail(site, lane, "has another descriptor than lane 0");
  return lanes[0];
}

static void keep(Warp& w, const Mask& m, Product p, u32* const* d) {
  require_whole_warp(w, m, p.site);
  if (w.launch->warps.size() % 4) fail(p.site, -1, "needs whole groups of four warps");
  std::copy_n(d, p.columns / 2, p.d);
  if (w.products.empty()) w.products.emplace_back();
  w.products.back().push_back(p);
}

void multiply_later(Warp& w, const Mask& m, const Site& site, u32 columns, bool bf16, u32* const* d,
                    const u64* a, const u64* b, const s32* adds, bool transpose_a, bool transpose_b) {
  const bool sums = adds && adds[0] != 0;
  const u64 left = uniform(site, a), right = uniform(site, b);
  keep(w, m, {site, columns, bf16, left, right, sums, transpose_a, transpose_b, {}, {}}, d);
}

void multiply_later(Warp& w, const Mask& m, const Site& site, u32 columns, bool bf16, u32* const* d,
                    const u32* const* a, const u64* b, const s32* adds, bool transpose_b) {
  const bool sums = adds && adds[0] != 0;
  Product p = {site, columns, bf16, 0, uniform(site, b), sums, false, transpose_b, {}, {}};
  std::copy_n(a, 4, p.rows);
  keep(w, m, p, d);
}

void commit_products(Warp& w, const Mask& m, const Site& site) {
  require_whole_warp(w, m, site);
  if (w.products.empty()) w.products.emplace_back();
  w.products.emplace_back();
}

void wait_for_products(Warp& w, const Mask& m, const Site& site, u32 pending) {
  require_whole_warp(w, m, site);
  while (w.products.size() > size_t(pending) + 1) {
    for (const Product& p : w.products.front()) compute(w, p);
    w.products.erase(w.products.begin());
  }
}

}  // namespace ptx
