// Router: one launch.
#include "device.h"

namespace moe::cuda {
namespace {

const char* fault(const RouterSpec& spec) {
  if (spec.top_k < 1 || spec.top_k > spec.num_experts)
    return says("Router: top_k %zu of %zu experts", spec.top_k, spec.num_experts);
  if (spec.num_experts > most_experts())
    return says("Router: %zu experts; the GPU kernels hold at most %zu", spec.num_experts,
                most_experts());
  if (!spec.num_groups || spec.num_experts % spec.num_groups || spec.topk_groups > spec.num_groups)
    return says("Router: the best %zu of %zu groups of %zu experts", spec.topk_groups, spec.num_groups,
                spec.num_experts);
  return nullptr;
}

}  // namespace

const char* route(const Device* device, const RouterSpec& spec, const float* router_logits,
                  const float* correction_bias, const float* expert_scale, size_t tokens,
                  float* topk_weights, int32_t* topk_ids, Stream stream) {
  if (const char* why = fault(spec)) return why;
  const Argument arguments[] = {router_logits,
                                correction_bias,
                                expert_scale,
                                topk_weights,
                                topk_ids,
                                spec.num_experts,
                                spec.top_k,
                                int32_t(spec.score),
                                spec.normalize,
                                spec.normalize_eps,
                                spec.normalize_min,
                                spec.num_groups,
                                spec.topk_groups,
                                spec.group_score == GroupScore::top2_sum,
                                spec.routed_scaling,
                                correction_bias != nullptr,
                                expert_scale != nullptr};
  return launch(device, router_of(spec.num_experts), {tokens}, stream, arguments);
}

}  // namespace moe::cuda
