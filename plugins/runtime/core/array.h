// A tensor that owns its numbers, and one that lies somewhere else.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_CORE_ARRAY_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_CORE_ARRAY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe::runtime {

// Numbered as ONNX numbers its element types.
enum class DType : int32_t {
  float32 = 1,
  uint8 = 2,
  int8 = 3,
  uint16 = 4,
  int16 = 5,
  int32 = 6,
  int64 = 7,
  boolean = 9,
  float16 = 10,
  float64 = 11,
  uint32 = 12,
  uint64 = 13,
  bfloat16 = 16,
};

// Bytes of one element.
size_t size_of(DType dtype);
// NumPy's name, as manifests have it: "float32", "bool"; "?" for a number that is none of the above.
const char* name_of(DType dtype);

// Elements of a shape.  Raises Error(usage) for a negative size or more than memory can address.
int64_t elements_of(const std::vector<int64_t>& shape);
// "[2, 3]"
std::string words_of(const std::vector<int64_t>& shape);

// Dense, in C order.
struct Array {
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  std::vector<std::byte> data;

  // Zeros.
  static Array of(DType dtype, std::vector<int64_t> shape);

  template <typename T>
  T* as() { return reinterpret_cast<T*>(data.data()); }
  template <typename T>
  const T* as() const { return reinterpret_cast<const T*>(data.data()); }
};

// The same without owning: the memory is the caller's and outlives it.
struct View {
  DType dtype = DType::float32;
  std::vector<int64_t> shape;
  void* data = nullptr;
  size_t bytes = 0;

  static View of(Array& array) {
    return {array.dtype, array.shape, array.data.data(), array.data.size()};
  }
  // Of what is only read.
  static View of(const Array& array) {
    return {array.dtype, array.shape, const_cast<std::byte*>(array.data.data()),
            array.data.size()};
  }
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_CORE_ARRAY_H_
