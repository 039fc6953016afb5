// A Router's node as its kernels take it, on the CPU and on a GPU.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_ROUTER_SPEC_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_ROUTER_SPEC_H_

#include "node.h"

namespace moe_ort {

// Without num_experts, which the logits say.  Throws a Fault for attributes that contradict each other.
moe::RouterSpec read_router(const Node& node);

// Throws a Fault where the experts of router_logits do not form the spec's groups, or are too few.
void check_experts(const std::string& node, const moe::RouterSpec& spec, const Tensor& logits);

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_ROUTER_SPEC_H_
