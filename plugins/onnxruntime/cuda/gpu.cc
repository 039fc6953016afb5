#include "gpu.h"

namespace moe_ort {

const moe::cuda::Device* device_of(const std::string& node) {
  const char* why = nullptr;
  const moe::cuda::Device* device = moe::cuda::current_device(&why);
  if (device == nullptr) throw Fault(node + ": " + (why ? why : "no GPU to run on"));
  return device;
}

moe::cuda::Stream stream_of(const Call& call) {
  void* stream = nullptr;
  check(call.api(), call.api()->KernelContext_GetGPUComputeStream(call.context(), &stream));
  return stream;
}

Workspace::Workspace(const Call& call, const Call::Output& beside, moe::cuda::Stream stream,
                     size_t bytes)
    : api_(call.api()) {
  if (bytes == 0) return;
  const ort_abi::OrtMemoryInfo* memory = nullptr;  // the output's own, not to be released
  check(api_, api_->GetTensorMemoryInfo(beside.value, &memory));
  check(api_, api_->KernelContext_GetAllocator(call.context(), memory, &allocator_));
  // An arena gives multiples of 256 bytes, a user's allocator what it likes.
  const size_t asked = bytes + moe::cuda::kWorkspaceAlignment - 1;
  // All that runs on the default stream is in one order, whoever runs it, and ONNX Runtime may have no
  // stream to remember.
  OrtStatus* status =
      stream != nullptr
          ? api_->KernelContext_GetScratchBuffer(call.context(), memory, asked, &taken_)
          : api_->AllocatorAlloc(allocator_, asked, &taken_);
  try {
    check(api_, status);
    if (taken_ == nullptr) throw std::bad_alloc();
  } catch (...) {
    api_->ReleaseAllocator(allocator_);
    throw;
  }
  const uintptr_t begin = reinterpret_cast<uintptr_t>(taken_) + moe::cuda::kWorkspaceAlignment - 1;
  data_ = reinterpret_cast<void*>(begin - begin % moe::cuda::kWorkspaceAlignment);
}

Workspace::~Workspace() {
  if (allocator_ == nullptr) return;
  OrtStatus* status = api_->AllocatorFree(allocator_, taken_);
  if (status != nullptr) api_->ReleaseStatus(status);
  api_->ReleaseAllocator(allocator_);
}

void require_launched(const std::string& node, const char* fault) {
  if (fault != nullptr) throw Fault(node + ": " + fault);
}

moe::cuda::Float float_type(const Tensor& rows) {
  switch (rows.type) {
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return moe::cuda::Float::f16;
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return moe::cuda::Float::bf16;
    default: return moe::cuda::Float::f32;
  }
}

size_t assignments_of(const Place& place, const Tensor& topk) {
  const size_t most = INT32_MAX, tokens = topk.dim(0), top_k = topk.dim(1);
  if (top_k < 1 || tokens > most / top_k) {
    refuse(place, "is " + describe(topk) + ", expected [T, K] of at most 2147483647 assignments");
  }
  return tokens * top_k;
}

}  // namespace moe_ort
