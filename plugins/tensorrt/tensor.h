// A tensor as a plugin sees it, and what it must look like.
#ifndef MOE_EXPORT_PLUGINS_TENSORRT_TENSOR_H_
#define MOE_EXPORT_PLUGINS_TENSORRT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include <NvInferRuntime.h>

#include "fault.h"

namespace moe_trt {

using nvinfer1::DataType;
using nvinfer1::Dims;

// An axis that is known only at run time.
constexpr int64_t kDynamic = -1;

struct Tensor {
  bool present = false;
  DataType type = DataType::kFLOAT;
  Dims dims{};
  const void* data = nullptr;

  const float* floats() const { return static_cast<const float*>(data); }
  const int32_t* ints() const { return static_cast<const int32_t*>(data); }
  bool knows(int axis) const { return dims.d[axis] != kDynamic; }
  size_t dim(int axis) const { return static_cast<size_t>(dims.d[axis]); }
  bool is_empty() const;
};

// The inputs of a node by their index in the op's schema; one that is not there is not present.
struct Tensors {
  static constexpr size_t kMost = 11;
  Tensor of[kMost];
  const Tensor& operator[](size_t port) const { return of[port]; }
};

// One axis of an expected shape: its letter in docs/ops.md, and its size where that is known.
struct Axis {
  Axis(const char* name) : letter(name) {}
  Axis(const char* name, int64_t known) : letter(name), size(known) {}
  const char* letter;
  int64_t size = kDynamic;
};
using Axes = std::initializer_list<Axis>;

// Where a tensor sits: "moe_export.Experts node 'layers.0'" and "topk_ids".
struct Place {
  const std::string& node;
  const char* input;
};

// Throws a Fault that names the place, what is there and what is expected, unless the tensor has the
// shape.  What is known only at run time fits everything.
void expect(const Place& place, const Tensor& tensor, Axes axes);

[[noreturn]] void refuse(const Place& place, const std::string& what);

// "f32 [?, 64]"
std::string describe(const Tensor& tensor);
const char* type_name(DataType type);

}  // namespace moe_trt

#endif  // MOE_EXPORT_PLUGINS_TENSORRT_TENSOR_H_
