// What an op adds to a plugin: its signature, and what to launch.  One file each.
#ifndef MOE_EXPORT_PLUGINS_TENSORRT_OP_H_
#define MOE_EXPORT_PLUGINS_TENSORRT_OP_H_

#include <memory>
#include <vector>

#include "moe_cuda.h"
#include "node.h"
#include "tensor.h"

namespace moe_trt {

// The type of an input or output: `row` is f32, f16 or bf16, one for all of a node's rows; `weight` is
// what the op says of its weights.
enum class PortType { f32, int32, row, weight, scale };

struct Port {
  const char* name;
  PortType type;
  int32_t rank;
  bool optional = false;
};

// Extents of tensors while a network is made.
using Extent = const nvinfer1::IDimensionExpr*;

class Extents {
 public:
  Extents(const nvinfer1::DimsExprs* const* of, nvinfer1::IExprBuilder& builder)
      : of_(of), builder_(builder) {}
  Extent operator()(size_t port, int axis) const { return of_[port]->d[axis]; }
  Extent constant(size_t value) const { return builder_.constant(static_cast<int64_t>(value)); }
  Extent product(Extent a, Extent b) const {
    return builder_.operation(nvinfer1::DimensionOperation::kPROD, *a, *b);
  }

 private:
  const nvinfer1::DimsExprs* const* of_;  // by index in the schema; null where absent
  nvinfer1::IExprBuilder& builder_;
};

// One node.  It never changes, so that all copies of a plugin share it.
class Op {
 public:
  virtual ~Op() = default;
  virtual DataType weight_type() const { return DataType::kFLOAT; }
  virtual std::vector<std::vector<Extent>> output_shapes(const Extents& inputs) const = 0;
  // Throws a Fault where shapes do not go together, or the kernels cannot run the node.  Tensors have
  // their port's type and rank; axes may be dynamic.
  virtual void check(const Tensors& inputs) const = 0;
  // Bytes for inputs of these shapes and smaller ones.  The inputs were checked; no axis is dynamic.
  virtual size_t workspace(const Tensors&) const { return 0; }
  // Null, or what is wrong.
  virtual const char* launch(const moe::cuda::Device* device, const Tensors& inputs,
                             void* const* outputs, void* workspace,
                             moe::cuda::Stream stream) const = 0;
};

struct OpDefinition {
  const char* name;
  std::vector<Port> inputs, outputs;
  std::vector<Attribute> attributes;
  std::unique_ptr<const Op> (*make)(const Node& node, const std::vector<bool>& present);
};

const OpDefinition& router();
const OpDefinition& experts();
const OpDefinition& dispatch();
const OpDefinition& grouped_matmul();
const OpDefinition& combine();

inline moe::cuda::Float float_type(DataType type) {
  return type == DataType::kHALF   ? moe::cuda::Float::f16
         : type == DataType::kBF16 ? moe::cuda::Float::bf16
                                   : moe::cuda::Float::f32;
}

// T*K of topk [T, K]; a Fault where an int32 cannot number them.
size_t assignments_of(const Place& place, const Tensor& topk);

}  // namespace moe_trt

#endif  // MOE_EXPORT_PLUGINS_TENSORRT_OP_H_
