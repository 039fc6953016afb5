// Router: the K experts of each token, and their weights.
#include "custom_op.h"
#include "router_spec.h"

namespace moe_ort {

namespace {

enum Input : size_t { kLogits, kCorrectionBias, kExpertScale };
enum Output : size_t { kWeights, kIds };

class Router : public Kernel {
 public:
  explicit Router(const Node& node) : node_(node.label()), spec_(read_router(node)) {}

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor logits = call.input(kLogits);
    expect({node_, "router_logits"}, logits, f32, {"T", "E"});
    moe::RouterSpec spec = spec_;
    spec.num_experts = logits.dim(1);
    check_experts(node_, spec, logits);
    const Tensor bias = call.input(kCorrectionBias), scale = call.input(kExpertScale);
    if (bias.present) expect({node_, "correction_bias"}, bias, f32, {{"E", spec.num_experts}});
    if (scale.present) expect({node_, "expert_scale"}, scale, f32, {{"E", spec.num_experts}});

    const size_t tokens = logits.dim(0);
    float* weights = call.floats(kWeights, {tokens, spec.top_k});
    int32_t* ids = call.ints(kIds, {tokens, spec.top_k});
    if (tokens == 0) return;
    moe::route(spec, logits.floats(), bias.floats(), scale.floats(), tokens, weights, ids,
               call.threads());
  }

 private:
  std::string node_;
  moe::RouterSpec spec_;
};

}  // namespace

const OpDefinition& router() {
  static const OpDefinition definition{
      "Router",
      {{"router_logits"},
       {"correction_bias", PortType::f32, true},
       {"expert_scale", PortType::f32, true}},
      {{"topk_weights"}, {"topk_ids", PortType::int32}},
      [](const Node& node) -> std::unique_ptr<Kernel> { return std::make_unique<Router>(node); }};
  return definition;
}

}  // namespace moe_ort
