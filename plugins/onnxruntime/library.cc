// What the library exports: ONNX Runtime's entry point, and what Python asks before it uses it.
#include <map>
#include <mutex>

#include "custom_op.h"

#define MOE_EXPORT_API extern "C" __attribute__((visibility("default")))

namespace moe_ort {

namespace {

// Panels version 1 and the attributes of op set version 1: what a graph may hold.
constexpr uint32_t kAbi = 1;

// A process has one domain for each ONNX Runtime in it, usually one.  Sessions keep pointers to it
// and to the ops, so it is never released.
ort_abi::OrtCustomOpDomain* domain(const OrtApi* api) {
  static std::mutex mutex;
  static std::map<const OrtApi*, ort_abi::OrtCustomOpDomain*> domains;
  const std::lock_guard<std::mutex> lock(mutex);
  ort_abi::OrtCustomOpDomain*& made = domains[api];
  if (made != nullptr) return made;
  ort_abi::OrtCustomOpDomain* fresh = nullptr;
  check(api, api->CreateCustomOpDomain("moe_export", &fresh));
  try {
    for (const CustomOp& op : custom_ops()) check(api, api->CustomOpDomain_Add(fresh, &op));
  } catch (...) {
    api->ReleaseCustomOpDomain(fresh);
    throw;
  }
  return made = fresh;
}

}  // namespace

}  // namespace moe_ort

MOE_EXPORT_API ort_abi::OrtStatus* RegisterCustomOps(ort_abi::OrtSessionOptions* options,
                                                     const ort_abi::OrtApiBase* base) {
  const ort_abi::OrtApi* api = base->GetApi(ort_abi::kApiVersion);
  if (api == nullptr) {
    // Without a table there is no status to make; version 1 has the one function that makes them.
    api = base->GetApi(1);
    return api->CreateStatus(ort_abi::ORT_FAIL, "moe_export needs ONNX Runtime 1.17 or newer");
  }
  try {
    moe_ort::check(api, api->AddCustomOpDomain(options, moe_ort::domain(api)));
    return nullptr;
  } catch (const std::exception& error) {
    return api->CreateStatus(ort_abi::ORT_FAIL, error.what());
  }
}

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
