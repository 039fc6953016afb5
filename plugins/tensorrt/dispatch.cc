// Dispatch: assignments in the order of their experts.
#include "op.h"

namespace moe_trt {

namespace {

enum Output : size_t { kOrder, kOffsets };

class Dispatch final : public Op {
 public:
  explicit Dispatch(const Node& node)
      : node_(node.label()), num_experts_(node.size("num_experts", 1)) {}

  std::vector<std::vector<Extent>> output_shapes(const Extents& inputs) const override {
    return {{inputs.product(inputs(0, 0), inputs(0, 1))}, {inputs.constant(num_experts_ + 1)}};
  }

  void check(const Tensors& inputs) const override { assignments(inputs); }

  size_t workspace(const Tensors& inputs) const override {
    return moe::cuda::dispatch_workspace(assignments(inputs), num_experts_);
  }

  const char* launch(const moe::cuda::Device* device, const Tensors& inputs, void* const* outputs,
                     void* workspace, moe::cuda::Stream stream) const override {
    return moe::cuda::dispatch(device, inputs[0].ints(), assignments(inputs), num_experts_,
                               static_cast<int32_t*>(outputs[kOrder]),
                               static_cast<int32_t*>(outputs[kOffsets]), workspace, stream);
  }

 private:
  size_t assignments(const Tensors& inputs) const {
    return assignments_of({node_, "topk_ids"}, inputs[0]);
  }

  std::string node_;
  size_t num_experts_;
};

}  // namespace

const OpDefinition& dispatch() {
  static const OpDefinition definition{
      "Dispatch",
      {{"topk_ids", PortType::int32, 2}},
      {{"order", PortType::int32, 1}, {"expert_offsets", PortType::int32, 1}},
      {Attribute::of("num_experts", 0)},
      [](const Node& node, const std::vector<bool>&) -> std::unique_ptr<const Op> {
        return std::make_unique<Dispatch>(node);
      }};
  return definition;
}

}  // namespace moe_trt
