// Combine: sorted rows back at their tokens, weighted and summed.
#include "custom_op.h"
#include "scratch.h"

namespace moe_ort {

namespace {

class Combine : public Kernel {
 public:
  explicit Combine(const Node& node) : node_(node.label()) {}

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor y_sorted = call.input(0), order = call.input(1), weights = call.input(2);
    expect({node_, "topk_weights"}, weights, f32, {"T", "K"});
    const size_t tokens = weights.dim(0), top_k = weights.dim(1);
    expect({node_, "y_sorted"}, y_sorted, f32, {{"S", tokens * top_k}, "N"});
    expect({node_, "order"}, order, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
           {{"S", tokens * top_k}});

    const size_t columns = y_sorted.dim(1);
    float* y = call.floats(0, {tokens, columns});
    if (tokens == 0 || columns == 0) return;
    const Scratch::Lease work = scratch_->take(moe::combine_scratch(tokens, top_k));
    moe::combine(y_sorted.floats(), order.ints(), weights.floats(), tokens, top_k, columns, y,
                 work.data(), call.threads());
    call.finish();
  }

 private:
  std::string node_;
  std::shared_ptr<Scratch> scratch_ = Scratch::shared();
};

}  // namespace

const OpDefinition& combine() {
  static const OpDefinition definition{
      "Combine",
      {{"y_sorted"}, {"order", PortType::int32}, {"topk_weights"}},
      {{"y"}},
      [](const Node& node) -> std::unique_ptr<Kernel> { return std::make_unique<Combine>(node); }};
  return definition;
}

}  // namespace moe_ort
