// Rows summed for each token, and what leaves some of them out.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_COMBINING_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_COMBINING_H_

#include "device.h"

namespace moe::cuda {

// What combine.py takes; a null pointer leaves its part out.
struct Combining {
  const void* rows;        // [S, columns]
  const int32_t* index;    // [S]: the row of each assignment
  const float* weights;    // [S]
  const int32_t* ids;      // [S]: those outside [0, E) are left out
  const int32_t* offsets;  // [E+1]: rows of no expert are left out
  size_t tokens, top_k, columns, num_experts;
};

// y [tokens, columns] in `type`; rows are float32, or of `type` where `rows_are_of_type`.
const char* sum_rows(const Device* device, const Combining& combining, Float type,
                     bool rows_are_of_type, void* y, Stream stream);

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_COMBINING_H_
