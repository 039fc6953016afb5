// Router: the K experts of each token, and their weights.
#include "op.h"

namespace moe_trt {

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

class Router final : public Op {
 public:
  explicit Router(const Node& node) : node_(node.label()) {
    spec_.top_k = node.size("top_k", 1);
    spec_.score = node.choice("score", kScores);
    spec_.normalize = node.flag("normalize");
    spec_.normalize_eps = node.number("normalize_eps");
    spec_.normalize_min = node.number("normalize_min");
    spec_.num_groups = node.size("num_groups", 1);
    spec_.topk_groups = node.size("topk_groups", 1);
    spec_.group_score = node.choice("group_score", kGroupScores);
    spec_.routed_scaling = node.number("routed_scaling");
    if (spec_.topk_groups > spec_.num_groups) {
      node.refuse_attribute("topk_groups", "is " + std::to_string(spec_.topk_groups) + " of " +
                                               std::to_string(spec_.num_groups) + " groups");
    }
  }

  std::vector<std::vector<Extent>> output_shapes(const Extents& inputs) const override {
    const Extent tokens = inputs(kLogits, 0), top_k = inputs.constant(spec_.top_k);
    return {{tokens, top_k}, {tokens, top_k}};
  }

  void check(const Tensors& inputs) const override {
    const Tensor& logits = inputs[kLogits];
    const Place where{node_, "router_logits"};
    if (!logits.knows(1)) refuse(where, "is " + describe(logits) + ": the number of experts is fixed");
    const int64_t experts = logits.dims.d[1];
    for (const size_t port : {kCorrectionBias, kExpertScale}) {
      const char* name = port == kCorrectionBias ? "correction_bias" : "expert_scale";
      if (inputs[port].present) expect({node_, name}, inputs[port], {{"E", experts}});
    }
    check_experts(logits);
  }

  const char* launch(const moe::cuda::Device* device, const Tensors& inputs, void* const* outputs,
                     void*, moe::cuda::Stream stream) const override {
    moe::RouterSpec spec = spec_;
    spec.num_experts = inputs[kLogits].dim(1);
    return moe::cuda::route(device, spec, inputs[kLogits].floats(), inputs[kCorrectionBias].floats(),
                            inputs[kExpertScale].floats(), inputs[kLogits].dim(0),
                            static_cast<float*>(outputs[kWeights]),
                            static_cast<int32_t*>(outputs[kIds]), stream);
  }

 private:
  void check_experts(const Tensor& logits) const {
    const Place where{node_, "router_logits"};
    const size_t experts = logits.dim(1);
    if (experts == 0 || experts % spec_.num_groups != 0) {
      refuse(where, "is " + describe(logits) + ": that many experts do not form " +
                        std::to_string(spec_.num_groups) + " groups (attribute 'num_groups')");
    }
    const size_t group = experts / spec_.num_groups;
    if (spec_.top_k > group * spec_.topk_groups) {
      refuse(where, "is " + describe(logits) + ", and top_k " + std::to_string(spec_.top_k) +
                        " exceeds the " + std::to_string(group * spec_.topk_groups) +
                        " experts to choose from");
    }
    if (spec_.num_groups > 1 && spec_.group_score == moe::GroupScore::top2_sum && group < 2) {
      refuse(where, "is " + describe(logits) + ": group_score 'top2_sum' needs groups of 2");
    }
  }

  std::string node_;
  moe::RouterSpec spec_{};  // without the number of experts
};

}  // namespace

const OpDefinition& router() {
  static const OpDefinition definition{
      "Router",
      {{"router_logits", PortType::f32, 2},
       {"correction_bias", PortType::f32, 1, true},
       {"expert_scale", PortType::f32, 1, true}},
      {{"topk_weights", PortType::f32, 2}, {"topk_ids", PortType::int32, 2}},
      {Attribute::of("top_k", 0), Attribute::of("score", "softmax"), Attribute::of("normalize", 0),
       Attribute::of("normalize_eps", 0.0f), Attribute::of("normalize_min", 0.0f),
       Attribute::of("num_groups", 1), Attribute::of("topk_groups", 1),
       Attribute::of("group_score", "max"), Attribute::of("routed_scaling", 1.0f)},
      [](const Node& node, const std::vector<bool>&) -> std::unique_ptr<const Op> {
        return std::make_unique<Router>(node);
      }};
  return definition;
}

}  // namespace moe_trt
