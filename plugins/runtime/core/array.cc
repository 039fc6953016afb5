#include "core/array.h"

#include <cstring>
#include <limits>

#include "core/error.h"

namespace moe::runtime {

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::uint8:
    case DType::int8:
    case DType::boolean: return 1;
    case DType::uint16:
    case DType::int16:
    case DType::float16:
    case DType::bfloat16: return 2;
    case DType::float32:
    case DType::int32:
    case DType::uint32: return 4;
    case DType::int64:
    case DType::float64:
    case DType::uint64: return 8;
  }
  throw Error(Kind::usage, "no dtype has the number " + std::to_string(static_cast<int>(dtype)));
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return "float32";
    case DType::uint8: return "uint8";
    case DType::int8: return "int8";
    case DType::uint16: return "uint16";
    case DType::int16: return "int16";
    case DType::int32: return "int32";
    case DType::int64: return "int64";
    case DType::boolean: return "bool";
    case DType::float16: return "float16";
    case DType::float64: return "float64";
    case DType::uint32: return "uint32";
    case DType::uint64: return "uint64";
    case DType::bfloat16: return "bfloat16";
  }
  return "?";
}

std::optional<DType> dtype_named(std::string_view name) {
  for (int number = 1; number <= static_cast<int>(DType::bfloat16); ++number) {
    if (name != "?" && name == name_of(static_cast<DType>(number))) return static_cast<DType>(number);
  }
  return std::nullopt;
}

int64_t elements_of(const std::vector<int64_t>& shape) {
  // So that bytes of the widest type fit as well.
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 16;
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0) throw Error(Kind::usage, "a negative size: " + words_of(shape));
    if (size != 0 && count > kMost / size) {
      throw Error(Kind::usage, "more elements than memory can hold: " + words_of(shape));
    }
    count *= size;
  }
  return count;
}

std::string words_of(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + "]";
}

Array Array::of(DType dtype, std::vector<int64_t> shape) {
  Array made{dtype, std::move(shape), {}};
  made.data.resize(static_cast<size_t>(elements_of(made.shape)) * size_of(dtype));
  return made;
}

namespace {

struct Block {
  const View& into;
  const View& from;
  const std::vector<int64_t>& at;
  const std::vector<int64_t>& begin;
  const std::vector<int64_t>& extent;
  size_t element;

  // From an axis on; the offsets are in elements, of what lies in front of it.
  void copy(size_t axis, int64_t to, int64_t source) const {
    if (axis == extent.size()) {
      std::memcpy(static_cast<std::byte*>(into.data) + static_cast<size_t>(to) * element,
                  static_cast<const std::byte*>(from.data) + static_cast<size_t>(source) * element,
                  element);
      return;
    }
    const int64_t first = to * into.shape[axis] + at[axis];
    const int64_t first_source = source * from.shape[axis] + begin[axis];
    if (whole_behind(axis)) {
      int64_t run = extent[axis], scale = 1;
      for (size_t i = axis + 1; i < extent.size(); ++i) scale *= extent[i];
      run *= scale;
      if (run == 0) return;
      std::memcpy(static_cast<std::byte*>(into.data) + static_cast<size_t>(first * scale) * element,
                  static_cast<const std::byte*>(from.data) +
                      static_cast<size_t>(first_source * scale) * element,
                  static_cast<size_t>(run) * element);
      return;
    }
    for (int64_t i = 0; i < extent[axis]; ++i) copy(axis + 1, first + i, first_source + i);
  }

  // Whether all axes behind this one are copied whole, so that one run of memory is.
  bool whole_behind(size_t axis) const {
    for (size_t i = axis + 1; i < extent.size(); ++i) {
      if (extent[i] != into.shape[i] || extent[i] != from.shape[i]) return false;
    }
    return true;
  }
};

}  // namespace

void copy_block(const View& into, const std::vector<int64_t>& at, const View& from,
                const std::vector<int64_t>& begin, const std::vector<int64_t>& extent) {
  const size_t rank = extent.size();
  bool fits = into.dtype == from.dtype && into.shape.size() == rank && from.shape.size() == rank &&
              at.size() == rank && begin.size() == rank;
  for (size_t i = 0; fits && i < rank; ++i) {
    fits = at[i] >= 0 && begin[i] >= 0 && extent[i] >= 0 && at[i] + extent[i] <= into.shape[i] &&
           begin[i] + extent[i] <= from.shape[i];
  }
  if (!fits) throw Error(Kind::internal, "a block that does not lie within its arrays");
  Block{into, from, at, begin, extent, size_of(into.dtype)}.copy(0, 0, 0);
}

}  // namespace moe::runtime
