// The library of CPU kernels: its ops, and what Python asks before it uses it.
#include "custom_op.h"
#include "exports.h"

namespace moe_ort {

namespace {

// Panels version 1 and the attributes of op set version 1: what a graph may hold.
constexpr uint32_t kAbi = 1;

}  // namespace

const Library& library() {
  static const Library cpu{{CustomOp(router()), CustomOp(experts()), CustomOp(dispatch()),
                            CustomOp(grouped_matmul()), CustomOp(combine()), CustomOp(linear()),
                            CustomOp(cached_attention()), CustomOp(rotary_heads())},
                           ort_abi::kApiVersion,
                           "moe_export needs ONNX Runtime 1.17 or newer"};
  return cpu;
}

}  // namespace moe_ort

MOE_EXPORT_API uint32_t moe_export_ort_abi() { return moe_ort::kAbi; }

// The level in use; null where MOE_EXPORT_CPU names one that is not to be had.
MOE_EXPORT_API const char* moe_export_ort_isa() {
  const char* why = nullptr;
  const moe::Isa* isa = moe::isa_best(&why);
  return isa ? moe::isa_name(isa) : nullptr;
}

MOE_EXPORT_API int moe_export_ort_has_isa(const char* name) {
  return moe::isa_named(name) != nullptr;
}
