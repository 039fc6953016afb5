// GroupedMatMul: each expert's matrix on the rows that dispatch() gave it.
#include "matrices.h"

namespace moe_trt {

namespace {

enum Input : size_t { kX, kOffsets, kWeights, kBias, kScales, kZeros };

constexpr MatrixPorts kPorts{kWeights, kScales, "weights", "scales"};

class GroupedMatMul final : public Op {
 public:
  GroupedMatMul(const Node& node, const std::vector<bool>& present)
      : node_(node.label()), storage_(read_storage(node)) {
    refuse_zeros(node, present[kZeros], "zeros");
  }

  DataType weight_type() const override { return type_of(storage_.format); }

  std::vector<std::vector<Extent>> output_shapes(const Extents& inputs) const override {
    return {{inputs(kX, 0), inputs(kWeights, 1)}};
  }

  void check(const Tensors& inputs) const override {
    const moe::cuda::Matrices weights = matrices(inputs);
    const int64_t experts = static_cast<int64_t>(weights.experts);
    const Tensor& x = inputs[kX];
    expect({node_, "x_sorted"}, x, {"S", {"H", static_cast<int64_t>(weights.columns)}});
    if (x.dims.d[0] > INT32_MAX) refuse({node_, "x_sorted"}, "has more rows than an int32 can number");
    expect({node_, "expert_offsets"}, inputs[kOffsets], {{"E+1", experts + 1}});
    if (inputs[kBias].present) {
      expect({node_, "bias"}, inputs[kBias],
             {{"E", experts}, {"N", static_cast<int64_t>(weights.rows)}});
    }
    const char* fault = moe::cuda::grouped_matmul_fault(weights, storage_.row_format);
    if (fault != nullptr) throw Fault(node_ + ": " + fault);
  }

  size_t workspace(const Tensors& inputs) const override {
    return moe::cuda::grouped_matmul_workspace(matrices(inputs), storage_.row_format,
                                               float_type(inputs[kX].type), inputs[kX].dim(0));
  }

  const char* launch(const moe::cuda::Device* device, const Tensors& inputs, void* const* outputs,
                     void* workspace, moe::cuda::Stream stream) const override {
    return moe::cuda::grouped_matmul(
        device, matrices(inputs), inputs[kBias].floats(), storage_.row_format,
        float_type(inputs[kX].type), inputs[kX].data, inputs[kOffsets].ints(), inputs[kX].dim(0),
        outputs[0], workspace, stream);
  }

 private:
  moe::cuda::Matrices matrices(const Tensors& inputs) const {
    return read_matrices(node_, inputs, storage_, kPorts);
  }

  std::string node_;
  Storage storage_;
};

}  // namespace

const OpDefinition& grouped_matmul() {
  static const OpDefinition definition{
      "GroupedMatMul",
      {{"x_sorted", PortType::row, 2},
       {"expert_offsets", PortType::int32, 1},
       {"weights", PortType::weight, 3},
       {"bias", PortType::f32, 2, true},
       {"scales", PortType::scale, 3, true},
       {"zeros", PortType::weight, 3, true}},
      {{"y_sorted", PortType::row, 2}},
      storage_attributes(),
      [](const Node& node, const std::vector<bool>& present) -> std::unique_ptr<const Op> {
        return std::make_unique<GroupedMatMul>(node, present);
      }};
  return definition;
}

}  // namespace moe_trt
