// Combine: sorted rows back at their tokens, weighted and summed.
#include "op.h"

namespace moe_trt {

namespace {

enum Input : size_t { kRows, kOrder, kWeights };

class Combine final : public Op {
 public:
  explicit Combine(const Node& node) : node_(node.label()) {}

  std::vector<std::vector<Extent>> output_shapes(const Extents& inputs) const override {
    return {{inputs(kWeights, 0), inputs(kRows, 1)}};
  }

  void check(const Tensors& inputs) const override {
    const Tensor &rows = inputs[kRows], &weights = inputs[kWeights];
    const size_t assignments = assignments_of({node_, "topk_weights"}, weights);
    const bool known = weights.knows(0) && weights.knows(1);
    const int64_t count = known ? static_cast<int64_t>(assignments) : kDynamic;
    expect({node_, "y_sorted"}, rows, {{"S", count}, "N"});
    expect({node_, "order"}, inputs[kOrder], {{"S", count}});
  }

  size_t workspace(const Tensors& inputs) const override {
    return moe::cuda::combine_workspace(assignments_of({node_, "topk_weights"}, inputs[kWeights]));
  }

  const char* launch(const moe::cuda::Device* device, const Tensors& inputs, void* const* outputs,
                     void* workspace, moe::cuda::Stream stream) const override {
    const Tensor &rows = inputs[kRows], &weights = inputs[kWeights];
    return moe::cuda::combine(device, float_type(rows.type), rows.data, inputs[kOrder].ints(),
                              weights.floats(), weights.dim(0), weights.dim(1), rows.dim(1),
                              outputs[0], workspace, stream);
  }

 private:
  std::string node_;
};

}  // namespace

const OpDefinition& combine() {
  static const OpDefinition definition{
      "Combine",
      {{"y_sorted", PortType::row, 2},
       {"order", PortType::int32, 1},
       {"topk_weights", PortType::f32, 2}},
      {{"y", PortType::row, 2}},
      {},
      [](const Node& node, const std::vector<bool>&) -> std::unique_ptr<const Op> {
        return std::make_unique<Combine>(node);
      }};
  return definition;
}

}  // namespace moe_trt
