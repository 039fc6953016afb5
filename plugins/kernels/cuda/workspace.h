// Workspace: regions one after the other.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_WORKSPACE_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_WORKSPACE_H_

#include <cstddef>

#include "../moe_cuda.h"

namespace moe::cuda {

// Hands out regions of a workspace, or with a null workspace only counts their bytes.
class Regions {
 public:
  explicit Regions(void* workspace) : base_(static_cast<char*>(workspace)) {}

  template <typename T = void>
  T* take(size_t bytes) {
    char* region = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    return reinterpret_cast<T*>(region);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_WORKSPACE_H_
