// One run of a kernel: its inputs, its outputs and ONNX Runtime's threads.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_CALL_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_CALL_H_

#include "moe_kernels.h"
#include "tensor.h"

namespace moe_ort {

class Call {
 public:
  Call(const OrtApi* api, ort_abi::OrtKernelContext* context) : api_(api), context_(context) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();

  Tensor input(size_t index) const;

  // An output of this shape, uninitialized, and the value that has it.
  struct Output {
    OrtValue* value;
    void* data;
  };
  Output output(size_t index, const int64_t* dims, size_t rank) const;
  Output output(size_t index, std::initializer_list<size_t> dims) const;

  // Its data.  Null where it has no elements.
  float* floats(size_t index, std::initializer_list<size_t> dims) const;
  int32_t* ints(size_t index, std::initializer_list<size_t> dims) const;
  float* floats(size_t index, const int64_t* dims, size_t rank) const;

  const OrtApi* api() const { return api_; }
  ort_abi::OrtKernelContext* context() const { return context_; }

  // The session's own threads, the calling one among them; tasks are claimed one by one.
  moe::Parallel threads();

  // Throws a Fault where the threads did not run all that they were given.
  void finish();

 private:
  static void run(void* call, size_t count, void (*task)(void*, size_t), void* argument);

  const OrtApi* api_;
  ort_abi::OrtKernelContext* context_;
  OrtStatus* failure_ = nullptr;
};

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_CALL_H_
