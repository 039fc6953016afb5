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

const OpDefinition& router();
const OpDefinition& experts();
const OpDefinition& dispatch();
const OpDefinition& grouped_matmul();
const OpDefinition& combine();
const OpDefinition& linear();
const OpDefinition& cached_attention();

struct CustomOp : ort_abi::OrtCustomOp {
  explicit CustomOp(const OpDefinition& definition);
  const OpDefinition* definition;
};

// All of them.
const std::vector<CustomOp>& custom_ops();

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_CUSTOM_OP_H_
