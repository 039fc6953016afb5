// The geometry of packed weights (docs/panels.md), for the packer and the kernels.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CPU_PANELS_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CPU_PANELS_H_

#include <cstring>

#include "../moe_kernels.h"

namespace moe {

constexpr size_t kPanelRows = 16;
constexpr size_t kAlignment = 64;
constexpr size_t kHeaderBytes = 64;
// Rows of integers are rounded in blocks of this many columns, whatever the weight's blocks.
constexpr size_t kRowBlock = 32;

// Static: this header is compiled for several CPUs, whose copies must not be merged by the linker.
static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static inline bool is_quantized(Format f) { return f == Format::int8 || f == Format::int4; }

static inline bool is_integer(RowFormat f) { return f == RowFormat::int8 || f == RowFormat::int16; }

// What stands for zero where a weight has no zeros of its own.
static constexpr int32_t middle(Format f) { return f == Format::int8 ? 128 : 8; }

static inline size_t value_bits(Format f) {
  return f == Format::f32 ? 32 : f == Format::int8 ? 8 : f == Format::int4 ? 4 : 16;
}

static inline size_t padded_columns(Format f, size_t columns) {
  return round_up(columns, f == Format::f32 ? 1 : is_quantized(f) ? kRowBlock : 2);
}

static inline size_t num_blocks(const Panels& p) {
  return p.block_size ? (p.columns + p.block_size - 1) / p.block_size : 1;
}

static inline size_t scales_offset(const Panels& p) {
  return padded_columns(p.format, p.columns) * kPanelRows * value_bits(p.format) / 8;
}

static inline size_t zeros_offset(const Panels& p) {
  return scales_offset(p) + num_blocks(p) * kPanelRows * (p.wide_scales ? 4 : 2);
}

static inline float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

static inline uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

static inline float float_of_bfloat16(const void* at) {
  uint16_t half;
  std::memcpy(&half, at, 2);
  return float_of_bits(uint32_t(half) << 16);
}

// x rounded to the nearest bfloat16, ties to even; NaN stays NaN.
static inline uint16_t bfloat16_of_float(float x) {
  const uint32_t bits = bits_of_float(x);
  if (x != x) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float float_of_half(const void* at) {
  uint16_t h;
  std::memcpy(&h, at, 2);
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
  if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
  if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
  // Subnormal: fraction * 2^-24, exactly.
  const float magnitude = float(fraction) * 5.9604644775390625e-8f;
  return float_of_bits(bits_of_float(magnitude) | sign);
}

}  // namespace moe

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CPU_PANELS_H_
