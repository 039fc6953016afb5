// The mixture-of-experts ops on an NVIDIA GPU: device pointers, sizes and a stream, no framework.
//
// What each op means is in docs/ops.md.  Letters: T tokens, K top_k, E experts, H hidden,
// I intermediate, S = T*K assignments.  Matrices are row-major and dense.  Nothing here links to CUDA:
// the driver is found at run time, and the kernels lie compiled in the library (docs/gpu.md).
//
// Every function that launches returns null, or what is wrong in words that stay valid in this thread
// until the next call.  Launches go to the stream in order; nothing is allocated and nothing waits.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_MOE_CUDA_H_
#define MOE_EXPORT_PLUGINS_KERNELS_MOE_CUDA_H_

#include <cstddef>
#include <cstdint>

#include "moe_kernels.h"

namespace moe::cuda {

// A CUstream of the current context; null is its default stream.
using Stream = void*;

// The type of tokens and results.
enum class Float : uint32_t { f32 = 0, f16 = 1, bf16 = 2 };

constexpr size_t bytes_of(Float type) { return type == Float::f32 ? 4 : 2; }

// The kernels, loaded for the device of the current context, once for each; null with *why set where
// there is no driver, no context, or no kernel for such a device.
struct Device;
const Device* current_device(const char** why);

// Compute capability as 10 * major + minor.
int compute_capability(const Device* device);

// All workspaces are 256-byte aligned device memory.
constexpr size_t kWorkspaceAlignment = 256;

// topk_weights [T, K] and topk_ids [T, K] of router_logits [T, E].  correction_bias and expert_scale
// [E] may be null.
const char* route(const Device* device, const RouterSpec& spec, const float* router_logits,
                  const float* correction_bias, const float* expert_scale, size_t tokens,
                  float* topk_weights, int32_t* topk_ids, Stream stream);

// The matrices of E experts [E, rows, columns].  Gated rows are the I gates and then the I values.
struct Matrices {
  Format format;
  size_t experts, rows, columns;
  size_t block_size;   // columns that share a scale; 0: all of a row, and for floats
  const void* values;  // int4: two to a byte, the first in the low half, rows whole bytes
  const void* scales;  // bfloat16 [E, rows, blocks], or null for floats
};

struct ExpertsSpec {
  Activation activation;
  bool gated;
  bool weight_on_input;
  float alpha, limit;
  RowFormat row_format;    // f32 or bf16
  Float type;              // of x and y
  const Matrices* up;      // null: an expert is one linear layer
  const Matrices* down;
  const float* up_bias;    // [E, I] or [E, 2I], or null
  const float* down_bias;  // [E, Hout], or null
};

// Null where experts() can run the spec, else what is wrong with it.  Looks at no pointer to numbers.
const char* experts_fault(const ExpertsSpec& spec);

// Workspace bytes that experts() needs for up to T tokens of top_k experts each.
size_t experts_workspace(const ExpertsSpec& spec, size_t tokens, size_t top_k);

// y [T, Hout] of x [T, H], topk_ids and topk_weights [T, K].  Every element of y is written.
const char* experts(const Device* device, const ExpertsSpec& spec, const void* x,
                    const int32_t* topk_ids, const float* topk_weights, size_t tokens, size_t top_k,
                    void* y, void* workspace, Stream stream);

// order [S] and expert_offsets [E+1] of topk_ids [S]: a stable sort by expert, ids outside [0, E) last.
size_t dispatch_workspace(size_t assignments, size_t num_experts);
const char* dispatch(const Device* device, const int32_t* topk_ids, size_t assignments,
                     size_t num_experts, int32_t* order, int32_t* expert_offsets, void* workspace,
                     Stream stream);

// y_sorted [S, N] of x_sorted [S, H]: each expert's matrix on its rows; rows of no expert are 0.
// bias [E, N] may be null.
const char* grouped_matmul_fault(const Matrices& weights, RowFormat row_format);
size_t grouped_matmul_workspace(const Matrices& weights, RowFormat row_format, Float type,
                                size_t rows);
const char* grouped_matmul(const Device* device, const Matrices& weights, const float* bias,
                           RowFormat row_format, Float type, const void* x_sorted,
                           const int32_t* expert_offsets, size_t rows, void* y_sorted,
                           void* workspace, Stream stream);

// y [T, N] of y_sorted [S, N]: rows back at their tokens, weighted, summed in order of k.
size_t combine_workspace(size_t assignments);
const char* combine(const Device* device, Float type, const void* y_sorted, const int32_t* order,
                    const float* topk_weights, size_t tokens, size_t top_k, size_t columns, void* y,
                    void* workspace, Stream stream);

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_MOE_CUDA_H_
