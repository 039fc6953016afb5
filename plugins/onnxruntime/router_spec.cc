#include "router_spec.h"

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

}  // namespace

moe::RouterSpec read_router(const Node& node) {
  moe::RouterSpec spec{};
  spec.top_k = node.size("top_k", 0, 1);
  spec.score = node.choice("score", kScores);
  spec.normalize = node.flag("normalize", false);
  spec.normalize_eps = node.number("normalize_eps", 0.0f);
  spec.normalize_min = node.number("normalize_min", 0.0f);
  spec.num_groups = node.size("num_groups", 1, 1);
  spec.topk_groups = node.size("topk_groups", 1, 1);
  spec.group_score = node.choice("group_score", kGroupScores);
  spec.routed_scaling = node.number("routed_scaling", 1.0f);
  if (spec.topk_groups > spec.num_groups) {
    node.refuse_attribute("topk_groups", "is " + std::to_string(spec.topk_groups) + " of " +
                                             std::to_string(spec.num_groups) + " groups");
  }
  return spec;
}

void check_experts(const std::string& node, const moe::RouterSpec& spec, const Tensor& logits) {
  const Place where{node, "router_logits"};
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

}  // namespace moe_ort
