// A tensor as a kernel sees it, and what it must look like.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_TENSOR_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_TENSOR_H_

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "ort_abi.h"

namespace moe_ort {

using ort_abi::ONNXTensorElementDataType;
using ort_abi::OrtApi;
using ort_abi::OrtStatus;
using ort_abi::OrtValue;

// What a user can do wrong.  Its text names the node; it leaves the library as an OrtStatus.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws a Fault with the status's own words, and releases it, unless it is null.
void check(const OrtApi* api, OrtStatus* status);

constexpr size_t kMaxRank = 8;

struct Tensor {
  bool present = false;
  ONNXTensorElementDataType type = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  size_t rank = 0;
  int64_t dims[kMaxRank] = {};
  const void* data = nullptr;

  const float* floats() const { return static_cast<const float*>(data); }
  const int32_t* ints() const { return static_cast<const int32_t*>(data); }
  size_t dim(size_t axis) const { return static_cast<size_t>(dims[axis]); }
  size_t elements() const;
};

// Null stands for an optional input that is absent.
Tensor read_tensor(const OrtApi* api, const OrtValue* value);

// One axis of an expected shape: its letter in docs/ops.md, and its size where that is known.
struct Axis {
  static constexpr int64_t kAny = -1;
  Axis(const char* name) : letter(name) {}
  Axis(const char* name, size_t known) : letter(name), size(static_cast<int64_t>(known)) {}
  const char* letter;
  int64_t size = kAny;
};
using Axes = std::initializer_list<Axis>;

// Where a tensor sits: "moe_export.Experts node 'layers.0'" and "input 'topk_ids'".
struct Place {
  const std::string& node;
  const char* input;
};

// Throws a Fault that names the place, what is there and what is expected, unless the tensor has
// the type and the shape.
void expect(const Place& place, const Tensor& tensor, ONNXTensorElementDataType type, Axes axes);

[[noreturn]] void refuse(const Place& place, const std::string& what);

// "float32 [4, 64]"
std::string describe(const Tensor& tensor);
const char* type_name(ONNXTensorElementDataType type);

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_TENSOR_H_
