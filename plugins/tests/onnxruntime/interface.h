// The stand-in's own side of the interface: what ONNX Runtime's opaque types are here.
#ifndef MOE_EXPORT_PLUGINS_TESTS_ONNXRUNTIME_INTERFACE_H_
#define MOE_EXPORT_PLUGINS_TESTS_ONNXRUNTIME_INTERFACE_H_

#include "stand_in.h"

namespace ort_abi {

struct OrtMemoryInfo {
  int device;
};
struct OrtStatus {
  std::string text;
};
struct OrtTensorTypeAndShapeInfo {
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
};
struct OrtValue {
  ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  std::unique_ptr<moe_trt_tests::Block> block;
};
struct OrtCustomOpDomain {
  std::string name;
  std::vector<const OrtCustomOp*> ops;
};
struct OrtSessionOptions {
  std::vector<OrtCustomOpDomain*> domains;
};
struct OrtKernelInfo {
  const moe_ort_tests::Node* node;
};
struct OrtKernelContext {
  std::vector<OrtValue*> inputs;
  std::vector<std::unique_ptr<OrtValue>> outputs;
  std::vector<ONNXTensorElementDataType> output_types;
  moe_trt_tests::Memory* memory;
  void* stream;
  struct Scratch {
    std::unique_ptr<moe_trt_tests::Block> block;
    bool freed;
  };
  std::vector<Scratch> scratch;
};
struct OrtAllocator {
  OrtKernelContext* context;
};

}  // namespace ort_abi

namespace moe_ort_tests {

// What a library has been given and has not given back.
struct Lent {
  int statuses = 0, descriptions = 0, allocators = 0;
};
extern Lent lent;

const ort_abi::OrtApi* api();

}  // namespace moe_ort_tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_ONNXRUNTIME_INTERFACE_H_
