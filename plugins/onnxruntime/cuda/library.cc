// The library of GPU kernels: its ops, and what Python asks before it uses it.
#include <cstdlib>

#include "custom_op.h"
#include "exports.h"

// Tests run the same ops in an ONNX Runtime without a GPU, over kernels for the host.
#ifndef MOE_EXPORT_CUDA_PROVIDER
#define MOE_EXPORT_CUDA_PROVIDER "CUDAExecutionProvider"
#endif

namespace moe_ort {

namespace {

// The attributes of op set version 1 and weights in rows: what a graph may hold.
constexpr uint32_t kAbi = 1;

std::vector<CustomOp> all_ops() {
  std::vector<CustomOp> ops{CustomOp(router(), MOE_EXPORT_CUDA_PROVIDER),
                            CustomOp(dispatch(), MOE_EXPORT_CUDA_PROVIDER)};
  for (const ONNXTensorElementDataType row : {ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                              ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                                              ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16}) {
    for (const OpDefinition* op : {&experts(), &grouped_matmul(), &combine()}) {
      ops.emplace_back(*op, MOE_EXPORT_CUDA_PROVIDER, row);
    }
  }
  return ops;
}

}  // namespace

const Library& library() {
  static const Library cuda{all_ops(), ort_abi::kCudaApiVersion,
                            "moe_export's GPU kernels need ONNX Runtime 1.18 or newer"};
  return cuda;
}

}  // namespace moe_ort

MOE_EXPORT_API uint32_t moe_export_ort_cuda_abi() { return moe_ort::kAbi; }
