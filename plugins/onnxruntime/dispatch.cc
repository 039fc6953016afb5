// Dispatch: the order in which each expert's assignments lie together.
#include "custom_op.h"

namespace moe_ort {

namespace {

class Dispatch : public Kernel {
 public:
  explicit Dispatch(const Node& node)
      : node_(node.label()), num_experts_(node.size("num_experts", 0, 1)) {}

  void compute(Call& call) const override {
    const Tensor ids = call.input(0);
    expect({node_, "topk_ids"}, ids, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, {"T", "K"});
    const size_t assignments = ids.elements();
    if (assignments > INT32_MAX) {
      refuse({node_, "topk_ids"}, "is " + describe(ids) + ": int32 cannot count them");
    }
    int32_t* order = call.ints(0, {assignments});
    int32_t* offsets = call.ints(1, {num_experts_ + 1});
    moe::dispatch(ids.ints(), assignments, num_experts_, order, offsets);
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
