// Weights of a node as the kernels read them.
#ifndef MOE_EXPORT_PLUGINS_TENSORRT_MATRICES_H_
#define MOE_EXPORT_PLUGINS_TENSORRT_MATRICES_H_

#include "op.h"

namespace moe_trt {

// What an op's four attributes say of its weights.
struct Storage {
  moe::Format format;
  size_t block_size;
  moe::RowFormat row_format;
};

// The attributes, for an op's definition.
std::vector<Attribute> storage_attributes();

// A Fault where the GPU has no kernels for what they say.
Storage read_storage(const Node& node);

DataType type_of(moe::Format format);

// Where a matrix and its scales are among an op's inputs.
struct MatrixPorts {
  size_t values, scales;
  const char *values_name, *scales_name;
};

// Throws a Fault unless the matrix has a fixed shape, whole bytes in a row, and the scales it needs.
moe::cuda::Matrices read_matrices(const std::string& node, const Tensors& inputs,
                                  const Storage& storage, const MatrixPorts& ports);

// Throws a Fault where a node has zero points, which the GPU has no kernels for.
void refuse_zeros(const Node& node, bool present, const char* name);

}  // namespace moe_trt

#endif  // MOE_EXPORT_PLUGINS_TENSORRT_MATRICES_H_
