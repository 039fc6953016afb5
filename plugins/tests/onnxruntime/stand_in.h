// Stands for ONNX Runtime: as much of its interface as a custom op of the CUDA provider may use, over
// memory with guards.  It checks what the real one takes on trust.
#ifndef MOE_EXPORT_PLUGINS_TESTS_ONNXRUNTIME_STAND_IN_H_
#define MOE_EXPORT_PLUGINS_TESTS_ONNXRUNTIME_STAND_IN_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "ort_abi.h"

namespace moe_ort_tests {

struct Attribute {
  enum class Type { integer, number, text } type;
  int64_t integer;
  float number;
  std::string text;
};

// An input as the graph has it: without a type where it is left out.
struct Input {
  ort_abi::ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  const void* data;
};

struct Node {
  std::string op, name;
  std::map<std::string, Attribute> attributes;
  std::vector<Input> inputs;
};

struct Output {
  ort_abi::ONNXTensorElementDataType type;
  std::vector<int64_t> dims;
  std::vector<uint8_t> bytes;
};

// A library of custom ops, registered as a session's options would.
class Library {
 public:
  // `newest`: the version of the interface that the stand-in offers.
  Library(const std::string& path, uint32_t newest);
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  // The op for the node and the types of its inputs.  Throws a Failure where there is none or several.
  const ort_abi::OrtCustomOp& op_for(const Node& node) const;

 private:
  std::vector<const ort_abi::OrtCustomOp*> ops_;
};

// Makes the node's kernel, runs it `runs` times and destroys it.  Throws a Failure with the kernel's
// words, or where it left a guard, a status, a description or memory behind.
std::vector<Output> run(const Library& library, const Node& node, moe_trt_tests::Memory& memory,
                        int runs);

size_t bytes_of(ort_abi::ONNXTensorElementDataType type, const std::vector<int64_t>& dims);

}  // namespace moe_ort_tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_ONNXRUNTIME_STAND_IN_H_
