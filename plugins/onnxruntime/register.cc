// ONNX Runtime's entry point into a library of ops.
#include <map>
#include <mutex>

#include "custom_op.h"
#include "exports.h"

namespace moe_ort {

namespace {

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
    for (const CustomOp& op : library().ops) check(api, api->CustomOpDomain_Add(fresh, &op));
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
  const moe_ort::Library& library = moe_ort::library();
  const ort_abi::OrtApi* api = base->GetApi(library.api_version);
  if (api == nullptr) {
    // Without a table there is no status to make; version 1 has the one function that makes them.
    api = base->GetApi(1);
    return api->CreateStatus(ort_abi::ORT_FAIL, library.too_old);
  }
  try {
    moe_ort::check(api, api->AddCustomOpDomain(options, moe_ort::domain(api)));
    return nullptr;
  } catch (const std::exception& error) {
    return api->CreateStatus(ort_abi::ORT_FAIL, error.what());
  }
}
