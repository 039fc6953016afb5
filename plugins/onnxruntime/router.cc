// Router: the K experts of each token, and their weights.
#include "custom_op.h"

namespace moe_ort {

namespace {

constexpr Choice<moe::Score> kScores[] = {
    {"softmax", moe::Score::softmax},
    {"sigmoid", moe::Score::sigmoid},
    {"softmax_topk", moe::Score::softmax_topk},
    {"sigmoid_topk", moe::Score::sigmoid_topk},
};
constexpr Choice<moe::GroupScore> kGroupScores[] = {
    {"max", moe::GroupScore::max},
    {"top2_sum", moe::GroupScore::top2_sum},
};

enum Input : size_t { kLogits, kCorrectionBias, kExpertScale };
enum Output : size_t { kWeights, kIds };

class Router : public Kernel {
 public:
  explicit Router(const Node& node) : node_(node.label()) {
    spec_.top_k = node.size("top_k", 0, 1);
    spec_.score = node.choice("score", kScores);
    spec_.normalize = node.flag("normalize", false);
    spec_.normalize_eps = node.number("normalize_eps", 0.0f);
    spec_.normalize_min = node.number("normalize_min", 0.0f);
    spec_.num_groups = node.size("num_groups", 1, 1);
    spec_.topk_groups = node.size("topk_groups", 1, 1);
    spec_.group_score = node.choice("group_score", kGroupScores);
    spec_.routed_scaling = node.number("routed_scaling", 1.0f);
    if (spec_.topk_groups > spec_.num_groups) {
      node.refuse_attribute("topk_groups", "is " + std::to_string(spec_.topk_groups) + " of " +
                                               std::to_string(spec_.num_groups) + " groups");
    }
  }

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor logits = call.input(kLogits);
    expect({node_, "router_logits"}, logits, f32, {"T", "E"});
    moe::RouterSpec spec = spec_;
    spec.num_experts = logits.dim(1);
    check_experts(spec, logits);
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
  void check_experts(const moe::RouterSpec& spec, const Tensor& logits) const {
    const Place where{node_, "router_logits"};
    const size_t experts = spec.num_experts;
    if (experts == 0 || experts % spec.num_groups != 0) {
      refuse(where, "is " + describe(logits) + ": that many experts do not form " +
                        std::to_string(spec.num_groups) + " groups (attribute 'num_groups')");
    }
    const size_t group = experts / spec.num_groups;
    if (spec.top_k > group * spec.topk_groups) {
      refuse(where, "is " + describe(logits) + ", and top_k " + std::to_string(spec.top_k) +
                        " exceeds the " + std::to_string(group * spec.topk_groups) +
                        " experts to choose from");
    }
    if (spec.num_groups > 1 && spec.group_score == moe::GroupScore::top2_sum && group < 2) {
      refuse(where, "is " + describe(logits) + ": group_score 'top2_sum' needs groups of 2");
    }
  }

  std::string node_;
  moe::RouterSpec spec_{};
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
