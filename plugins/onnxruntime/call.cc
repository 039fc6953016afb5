#include "call.h"

namespace moe_ort {

Call::~Call() {
  if (failure_ != nullptr) api_->ReleaseStatus(failure_);
}

Tensor Call::input(size_t index) const {
  size_t count = 0;
  check(api_, api_->KernelContext_GetInputCount(context_, &count));
  if (index >= count) return {};
  const OrtValue* value = nullptr;
  check(api_, api_->KernelContext_GetInput(context_, index, &value));
  return read_tensor(api_, value);
}

Call::Output Call::output(size_t index, const int64_t* dims, size_t rank) const {
  Output output{};
  check(api_, api_->KernelContext_GetOutput(context_, index, dims, rank, &output.value));
  if (output.value == nullptr) throw Fault("output " + std::to_string(index) + " has no name");
  check(api_, api_->GetTensorMutableData(output.value, &output.data));
  return output;
}

Call::Output Call::output(size_t index, std::initializer_list<size_t> dims) const {
  int64_t wide[kMaxRank] = {};
  size_t rank = 0;
  for (const size_t dim : dims) wide[rank++] = static_cast<int64_t>(dim);
  return output(index, wide, rank);
}

float* Call::floats(size_t index, const int64_t* dims, size_t rank) const {
  return static_cast<float*>(output(index, dims, rank).data);
}

float* Call::floats(size_t index, std::initializer_list<size_t> dims) const {
  return static_cast<float*>(output(index, dims).data);
}

int32_t* Call::ints(size_t index, std::initializer_list<size_t> dims) const {
  // Outputs are typed by the op's signature; the data is what that says.
  return reinterpret_cast<int32_t*>(floats(index, dims));
}

moe::Parallel Call::threads() { return {&Call::run, this}; }

void Call::run(void* self, size_t count, void (*task)(void*, size_t), void* argument) {
  if (count == 1) return task(argument, 0);
  auto* call = static_cast<Call*>(self);
  // As many batches as tasks: a batch is what a thread claims, and tasks take unequal time.
  OrtStatus* status =
      call->api_->KernelContext_ParallelFor(call->context_, task, count, count, argument);
  if (status == nullptr) return;
  if (call->failure_ != nullptr) call->api_->ReleaseStatus(call->failure_);
  call->failure_ = status;
}

void Call::finish() {
  OrtStatus* status = failure_;
  failure_ = nullptr;
  check(api_, status);
}

}  // namespace moe_ort
