// Dispatch: assignments in the order of their experts.
#include "gpu.h"

namespace moe_ort {

namespace {

enum Output : size_t { kOrder, kOffsets };

class Dispatch final : public Kernel {
 public:
  explicit Dispatch(const Node& node)
      : node_(node.label()), num_experts_(node.size("num_experts", 0, 1)) {}

  void compute(Call& call) const override {
    const Tensor ids = call.input(0);
    expect({node_, "topk_ids"}, ids, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, {"T", "K"});
    const size_t assignments = assignments_of({node_, "topk_ids"}, ids);

    const Call::Output order = call.output(kOrder, {assignments});
    // Written even where there is no token: every expert's range is empty then.
    const Call::Output offsets = call.output(kOffsets, {num_experts_ + 1});
    const moe::cuda::Device* device = device_of(node_);
    const moe::cuda::Stream stream = stream_of(call);
    const Workspace work(call, offsets, stream,
                         moe::cuda::dispatch_workspace(assignments, num_experts_));
    require_launched(node_, moe::cuda::dispatch(device, ids.ints(), assignments, num_experts_,
                                                static_cast<int32_t*>(order.data),
                                                static_cast<int32_t*>(offsets.data), work.data(),
                                                stream));
  }

 private:
  std::string node_;
  size_t num_experts_;
};

}  // namespace

const OpDefinition& dispatch() {
  static const OpDefinition definition{
      "Dispatch",
      {{"topk_ids", PortType::int32}},
      {{"order", PortType::int32}, {"expert_offsets", PortType::int32}},
      [](const Node& node) -> std::unique_ptr<Kernel> { return std::make_unique<Dispatch>(node); }};
  return definition;
}

}  // namespace moe_ort
