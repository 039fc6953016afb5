// An op as ONNX Runtime is told of it.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUSTOM_OP_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUSTOM_OP_H_

#include <memory>
#include <vector>

#include "call.h"
#include "node.h"

namespace moe_ort {

// A node ready to run.  Runs may overlap.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(Call& call) const = 0;
};

enum class PortType {
  f32,
  row,  // f32, f16 or bf16, one for all rows of a node: what its CustomOp says
  int32,
  boolean,
  weight,  // a float, int8, int4, or uint8 for panels, as the attributes say
};

// An input or an output, with the name that docs/ops.md gives it.
struct Port {
  const char* name;
  PortType type = PortType::f32;
  bool optional = false;
};

struct OpDefinition {
  const char* name;
  std::vector<Port> inputs, outputs;
  std::unique_ptr<Kernel> (*make)(const Node& node);
};

// On the CPU, or on a GPU: as the library has them.
const OpDefinition& router();
const OpDefinition& experts();
const OpDefinition& dispatch();
const OpDefinition& grouped_matmul();
const OpDefinition& combine();
// On the CPU alone.
const OpDefinition& linear();
const OpDefinition& cached_attention();
const OpDefinition& rotary_heads();

// One op for the nodes whose rows have a type; an op with rows of several types is there for each.
struct CustomOp : ort_abi::OrtCustomOp {
  explicit CustomOp(const OpDefinition& definition, const char* provider = "CPUExecutionProvider",
                    ONNXTensorElementDataType row = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  const OpDefinition* definition;
  const char* provider;
  ONNXTensorElementDataType row;
};

// What a library registers: each defines it once.
struct Library {
  std::vector<CustomOp> ops;
  uint32_t api_version;
  const char* too_old;  // in words, where ONNX Runtime has no such version
};
const Library& library();

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUSTOM_OP_H_
