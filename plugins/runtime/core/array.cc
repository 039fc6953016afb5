#include "core/array.h"

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

}  // namespace moe::runtime
