// Combine: sorted rows back at their tokens, weighted and summed.
#include "gpu.h"

namespace moe_ort {

namespace {

enum Input : size_t { kRows, kOrder, kWeights };

class Combine final : public Kernel {
 public:
  explicit Combine(const Node& node) : node_(node.label()) {}

  void compute(Call& call) const override {
    const Tensor rows = call.input(kRows), order = call.input(kOrder), weights = call.input(kWeights);
    expect({node_, "topk_weights"}, weights, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, {"T", "K"});
    const size_t assignments = assignments_of({node_, "topk_weights"}, weights);
    expect({node_, "y_sorted"}, rows, rows.type, {{"S", assignments}, "N"});
    expect({node_, "order"}, order, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, {{"S", assignments}});

    const size_t tokens = weights.dim(0), columns = rows.dim(1);
    const Call::Output y = call.output(0, {tokens, columns});
    if (tokens == 0 || columns == 0) return;
    const moe::cuda::Device* device = device_of(node_);
    const moe::cuda::Stream stream = stream_of(call);
    const Workspace work(call, y, stream, moe::cuda::combine_workspace(assignments));
    require_launched(node_, moe::cuda::combine(device, float_type(rows), rows.data, order.ints(),
                                               weights.floats(), tokens, weights.dim(1), columns,
                                               y.data, work.data(), stream));
  }

 private:
  std::string node_;
};

}  // namespace

const OpDefinition& combine() {
  static const OpDefinition definition{
      "Combine",
      {{"y_sorted", PortType::row}, {"order", PortType::int32}, {"topk_weights"}},
      {{"y", PortType::row}},
      [](const Node& node) -> std::unique_ptr<Kernel> { return std::make_unique<Combine>(node); }};
  return definition;
}

}  // namespace moe_ort
