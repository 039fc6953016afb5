#include "weights.h"

#include <cmath>
#include <limits>

#include "check.h"

namespace moe::tests {
namespace {

const char* name_of(Format format) {
  static const char* const names[] = {"f32", "bf16", "f16", "int8", "int4"};
  return names[uint32_t(format)];
}

const char* name_of(RowFormat format) {
  static const char* const names[] = {"f32", "bf16", "int8", "int16"};
  return names[uint32_t(format)];
}

bool is_integer(Format format) { return format == Format::int8 || format == Format::int4; }

size_t bytes_of(Format format, size_t count) {
  switch (format) {
    case Format::f32:
      return count * 4;
    case Format::int8:
      return count;
    case Format::int4:
      return (count + 1) / 2;
    default:
      return count * 2;
  }
}

uint16_t any_half(Random* random, double size) {
  // The nearest half below: a mantissa of 11 bits at the number's exponent, subnormals in steps of
  // 2^-24.
  const double x = random->normal() * size;
  int exponent;
  std::frexp(x, &exponent);
  exponent = std::max(exponent, -13);
  const double steps = std::trunc(std::ldexp(std::fabs(x), 11 - exponent));
  const uint16_t sign = x < 0 ? 0x8000 : 0;
  if (steps < 1024) return uint16_t(sign | uint16_t(steps));
  return uint16_t(sign | uint16_t(exponent + 14) << 10 | (uint16_t(steps) & 0x3ff));
}

}  // namespace

double number_of_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31)
    return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL;
  if (!exponent) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

double number_of_bfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return double(x);
}

std::string Storage::words() const {
  std::string text = name_of(format);
  if (is_integer(format)) text += tests::words(":%zu", block_size);
  if (zeros) text += "+zeros";
  if (wide) text += "+wide";
  return text + " with rows in " + name_of(rows);
}

std::vector<Storage> all_storages() {
  std::vector<Storage> all;
  for (const Format format : {Format::f32, Format::bf16, Format::f16})
    for (const RowFormat rows : {RowFormat::f32, RowFormat::bf16})
      all.push_back({format, rows, 0, false, false});
  for (const Format format : {Format::int8, Format::int4})
    for (const size_t block : {0, 32, 64, 128})
      for (const bool zeros : {false, true})
        for (const bool wide : {false, true})
          for (const RowFormat rows :
               {RowFormat::f32, RowFormat::bf16, RowFormat::int8, RowFormat::int16})
            if (block || wide) all.push_back({format, rows, block, zeros, wide});
  return all;
}

std::vector<Storage> usual_storages() {
  return {
      {Format::f32, RowFormat::f32, 0, false, false},
      {Format::bf16, RowFormat::bf16, 0, false, false},
      {Format::bf16, RowFormat::f32, 0, false, false},
      {Format::f16, RowFormat::f32, 0, false, false},
      {Format::int8, RowFormat::int16, 0, false, true},
      {Format::int8, RowFormat::int16, 32, false, false},
      {Format::int8, RowFormat::int8, 64, true, false},
      {Format::int4, RowFormat::int8, 32, false, false},
      {Format::int4, RowFormat::int8, 128, true, false},
      {Format::int4, RowFormat::int16, 64, false, false},
      {Format::int4, RowFormat::f32, 32, true, false},
  };
}

Weight::Weight(const Storage& storage, const Shape& shape, Random* random)
    : storage_(storage), shape_(shape) {
  const size_t count = shape.experts * shape.rows * shape.columns;
  values_ = Block<uint8_t>(bytes_of(storage.format, count));
  if (is_integer(storage.format))
    make_integers(random);
  else
    make_floats(random);
  compute();
  pack();
}

size_t Weight::blocks() const {
  return storage_.block_size ? (shape_.columns + storage_.block_size - 1) / storage_.block_size : 1;
}

RowsWeight Weight::rows() const {
  return {storage_.format,     shape_.experts,  shape_.rows,     shape_.columns,
          storage_.block_size, values_.data(),  scales_.or_null(), zeros_.or_null(),
          shape_.gated,        shape_.interleaved};
}

void Weight::make_floats(Random* random) {
  const size_t count = shape_.experts * shape_.rows * shape_.columns;
  const double size = 1 / std::sqrt(double(shape_.columns));
  for (size_t i = 0; i < count; ++i) {
    if (storage_.format == Format::f16) {
      const uint16_t bits = any_half(random, size);
      std::memcpy(&values_[i * 2], &bits, 2);
      continue;
    }
    const float x = float(random->normal() * size);
    if (storage_.format == Format::f32) {
      std::memcpy(&values_[i * 4], &x, 4);
    } else {
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      const uint16_t high = uint16_t(bits >> 16);
      std::memcpy(&values_[i * 2], &high, 2);
    }
  }
}

void Weight::make_integers(Random* random) {
  for (uint8_t& byte : values_) byte = uint8_t(random->bits());
  const size_t count = shape_.experts * shape_.rows * blocks();
  const double size = (storage_.format == Format::int8 ? 1 / 70.0 : 1 / 4.0) /
                      std::sqrt(double(shape_.columns));
  scales_ = Block<float>(count);
  for (float& scale : scales_) {
    scale = float(size * (0.5 + random->uniform()) * (random->one_in(4) ? -1 : 1));
    if (random->one_in(50)) scale = 0;
    if (storage_.wide) continue;
    uint32_t bits;
    std::memcpy(&bits, &scale, 4);
    bits &= 0xffff0000;
    std::memcpy(&scale, &bits, 4);
  }
  if (!storage_.zeros) return;
  zeros_ = Block<uint8_t>(bytes_of(storage_.format, count));
  for (uint8_t& byte : zeros_) byte = uint8_t(random->bits());
}

int Weight::integer_at(const Block<uint8_t>& from, size_t index) const {
  if (storage_.format == Format::int8) return int8_t(from[index]);
  const int half = index % 2 ? from[index / 2] >> 4 : from[index / 2] & 15;
  return half < 8 ? half : half - 16;
}

void Weight::compute() {
  const size_t count = shape_.experts * shape_.rows * shape_.columns;
  numbers_.resize(count);
  for (size_t i = 0; i < count; ++i) {
    if (storage_.format == Format::f32) {
      float x;
      std::memcpy(&x, &values_[i * 4], 4);
      numbers_[i] = x;
    } else if (!is_integer(storage_.format)) {
      uint16_t bits;
      std::memcpy(&bits, &values_[i * 2], 2);
      numbers_[i] =
          storage_.format == Format::f16 ? number_of_half(bits) : number_of_bfloat16(bits);
    } else {
      const size_t row = i / shape_.columns, column = i % shape_.columns;
      const size_t block =
          row * blocks() + (storage_.block_size ? column / storage_.block_size : 0);
      const int zero = zeros_.size() ? integer_at(zeros_, block) : 0;
      numbers_[i] = double(integer_at(values_, i) - zero) * double(scales_[block]);
    }
  }
}

void Weight::pack() {
  const RowsWeight source = rows();
  blob_ = Block<uint8_t>(panels_bytes(source));
  pack_panels(source, blob_.data(), serial());
  const char* why = nullptr;
  const bool is_read = read_panels(blob_.data(), blob_.size(), &panels_, &why);
  CHECK(is_read, "what was packed is refused: %s", why);
}

void Weight::poison(size_t expert) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  if (is_integer(storage_.format)) {
    const size_t count = shape_.rows * blocks();
    for (size_t i = 0; i < count; ++i) scales_[expert * count + i] = nan;
  } else {
    const size_t bytes = bytes_of(storage_.format, shape_.rows * shape_.columns);
    // All ones are a NaN in every format of floats.
    std::memset(&values_[expert * bytes], 0xff, bytes);
  }
  compute();
  pack();
}

}  // namespace moe::tests
