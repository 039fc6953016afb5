// Weights of a node as GPU kernels read them: in rows, with scales of bfloat16.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUDA_MATRICES_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUDA_MATRICES_H_

#include "gpu.h"

namespace moe_ort {

// What the attributes weight_format, block_size, row_format and weight_layout say of all weights of a
// node.
struct Storage {
  moe::Format format;
  size_t block_size;
  moe::RowFormat row_format;
};

// Throws a Fault where the GPU has no kernels for what they say.
Storage read_storage(const Node& node);

// Where a matrix of each expert, its scales and its zero points are among a node's inputs.
struct MatrixPorts {
  size_t values, scales, zeros;
  const char *values_name, *scales_name, *zeros_name;
};

// Throws a Fault where the node has zero points, which the GPU has no kernels for.
void refuse_zeros(const Node& node, const MatrixPorts& ports);

// Throws a Fault unless values and scales have the types, the shape and the whole bytes that the
// storage needs.
moe::cuda::Matrices read_matrices(const Call& call, const std::string& node, const Storage& storage,
                                  const MatrixPorts& ports);

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUDA_MATRICES_H_
