// Router: logits become the experts of each token and their weights.  docs/ops.md numbers the steps.
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "../moe_kernels.h"

namespace moe {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The three classes of rank: numbers, then NaN, then experts outside the best groups.
constexpr float kLargestNumber = 1e37f, kRankOfNaN = -1e38f, kShut = -kInfinity;

float rank_of(float score) {
  if (score != score) return kRankOfNaN;
  return score > kLargestNumber ? kLargestNumber : score < -kLargestNumber ? -kLargestNumber : score;
}

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Softmax of n numbers, in place; with skip_nan a NaN takes no part and stays what it is.
void softmax(float* x, size_t n, bool skip_nan) {
  float largest = -kInfinity;
  bool is_nan = false;
  for (size_t i = 0; i < n; ++i) {
    if (x[i] != x[i])
      is_nan = true;
    else if (x[i] > largest)
      largest = x[i];
  }
  // Such a softmax has no numbers: inf - inf.
  if ((is_nan && !skip_nan) || std::isinf(largest)) {
    for (size_t i = 0; i < n; ++i) x[i] = kNaN;
    return;
  }
  float sum = 0;
  for (size_t i = 0; i < n; ++i) {
    if (x[i] != x[i]) continue;
    x[i] = std::exp(x[i] - largest);
    sum += x[i];
  }
  for (size_t i = 0; i < n; ++i) x[i] /= sum;
}

// The `count` best of n ranks in descending order, ties to the lower index.  O(n * count).
void best(const float* ranks, size_t n, size_t count, int32_t* chosen) {
  size_t held = 0;
  for (size_t i = 0; i < n; ++i) {
    if (held == count && !(ranks[i] > ranks[chosen[held - 1]])) continue;
    size_t at = held < count ? held++ : held - 1;
    for (; at > 0 && ranks[i] > ranks[chosen[at - 1]]; --at) chosen[at] = chosen[at - 1];
    chosen[at] = int32_t(i);
  }
}

float group_score(const float* ranks, size_t size, GroupScore how) {
  float first = -kInfinity, second = -kInfinity;
  for (size_t i = 0; i < size; ++i) {
    if (ranks[i] > first) {
      second = first;
      first = ranks[i];
    } else if (ranks[i] > second) {
      second = ranks[i];
    }
  }
  return how == GroupScore::max ? first : first + second;
}

struct Routing {
  const RouterSpec* spec;
  const float *logits, *bias, *scale;
  size_t tokens, tokens_per_task;
  float* weights;
  int32_t* ids;
};

// Scratch of one task: scores and ranks [E], group scores [G], and places for the best groups [G].
struct Scratch {
  std::vector<float> scores, ranks, groups;
  std::vector<int32_t> best_groups;
};

void shut_groups(const RouterSpec& spec, Scratch* s) {
  const size_t size = spec.num_experts / spec.num_groups;
  for (size_t g = 0; g < spec.num_groups; ++g)
    s->groups[g] = group_score(&s->ranks[g * size], size, spec.group_score);
  best(s->groups.data(), spec.num_groups, spec.topk_groups, s->best_groups.data());
  std::vector<bool> open(spec.num_groups, false);
  for (size_t i = 0; i < spec.topk_groups; ++i) open[size_t(s->best_groups[i])] = true;
  for (size_t e = 0; e < spec.num_experts; ++e)
    if (!open[e / size]) s->ranks[e] = kShut;
}

void normalize(const RouterSpec& spec, float* weights) {
  float sum = 0;
  for (size_t k = 0; k < spec.top_k; ++k) sum += weights[k];
  sum += spec.normalize_eps;
  if (sum < spec.normalize_min) sum = spec.normalize_min;  // a NaN sum stays one
  for (size_t k = 0; k < spec.top_k; ++k) weights[k] /= sum;
}

void route_token(const Routing& r, size_t token, Scratch* s) {
  const RouterSpec& spec = *r.spec;
  const size_t num_experts = spec.num_experts;
  float* scores = s->scores.data();
  for (size_t e = 0; e < num_experts; ++e) scores[e] = r.logits[token * num_experts + e];
  if (spec.score == Score::softmax) softmax(scores, num_experts, true);
  if (spec.score == Score::sigmoid)
    for (size_t e = 0; e < num_experts; ++e) scores[e] = sigmoid(scores[e]);
  for (size_t e = 0; e < num_experts; ++e)
    s->ranks[e] = rank_of(r.bias ? scores[e] + r.bias[e] : scores[e]);
  if (spec.num_groups > 1) shut_groups(spec, s);

  int32_t* ids = r.ids + token * spec.top_k;
  float* weights = r.weights + token * spec.top_k;
  best(s->ranks.data(), num_experts, spec.top_k, ids);
  for (size_t k = 0; k < spec.top_k; ++k) weights[k] = scores[ids[k]];
  if (spec.score == Score::softmax_topk) softmax(weights, spec.top_k, false);
  if (spec.score == Score::sigmoid_topk)
    for (size_t k = 0; k < spec.top_k; ++k) weights[k] = sigmoid(weights[k]);
  if (spec.normalize) normalize(spec, weights);
  for (size_t k = 0; k < spec.top_k; ++k) {
    if (r.scale) weights[k] *= r.scale[ids[k]];
    weights[k] *= spec.routed_scaling;
  }
}

void route_tokens(void* argument, size_t task) {
  const auto& r = *static_cast<const Routing*>(argument);
  const RouterSpec& spec = *r.spec;
  Scratch scratch{std::vector<float>(spec.num_experts), std::vector<float>(spec.num_experts),
                  std::vector<float>(spec.num_groups), std::vector<int32_t>(spec.num_groups)};
  const size_t begin = task * r.tokens_per_task;
  for (size_t t = begin; t < begin + r.tokens_per_task && t < r.tokens; ++t)
    route_token(r, t, &scratch);
}

}  // namespace

void route(const RouterSpec& spec, const float* router_logits, const float* correction_bias,
           const float* expert_scale, size_t tokens, float* topk_weights, int32_t* topk_ids,
           const Parallel& parallel) {
  // A token of 128 experts costs about a microsecond; waking a thread costs a few.
  constexpr size_t kTokensPerTask = 32;
  Routing routing{&spec,  router_logits,  correction_bias, expert_scale,
                  tokens, kTokensPerTask, topk_weights,    topk_ids};
  const size_t tasks = (tokens + kTokensPerTask - 1) / kTokensPerTask;
  const Parallel& by = tasks > 1 ? parallel : serial();
  by.run(by.pool, tasks, route_tokens, &routing);
}

}  // namespace moe
