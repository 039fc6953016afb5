// What a GPU kernel asks of ONNX Runtime and of the machine: where it runs, and memory for a while.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUDA_GPU_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUDA_GPU_H_

#include "custom_op.h"
#include "moe_cuda.h"

namespace moe_ort {

// The kernels for the GPU that ONNX Runtime made current; a Fault where there are none.
const moe::cuda::Device* device_of(const std::string& node);

// The stream on which this run's kernels follow each other.
moe::cuda::Stream stream_of(const Call& call);

// Memory on the GPU that has an output, until the kernels that were launched before its end have run.
//
// ONNX Runtime's arena takes it back when the launch returns and remembers the stream: what gets the
// memory next is on that stream behind the launch, or waits for it.  Nobody here does.
class Workspace {
 public:
  Workspace(const Call& call, const Call::Output& beside, moe::cuda::Stream stream, size_t bytes);
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();

  void* data() const { return data_; }

 private:
  const OrtApi* api_;
  ort_abi::OrtAllocator* allocator_ = nullptr;
  void* taken_ = nullptr;
  void* data_ = nullptr;
};

// Throws a Fault with the words of a launch, unless there are none.
void require_launched(const std::string& node, const char* fault);

moe::cuda::Float float_type(const Tensor& rows);

// T*K of topk [T, K]; a Fault where an int32 cannot number them.
size_t assignments_of(const Place& place, const Tensor& topk);

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUDA_GPU_H_
