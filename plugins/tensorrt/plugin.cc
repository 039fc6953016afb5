#include "plugin.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace moe_trt {

using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace {

// TensorRT aligns workspaces to 128 bytes, less than the kernels want.
constexpr size_t kAlignment = moe::cuda::kWorkspaceAlignment;

std::vector<Attribute> attributes_of(const OpDefinition& definition) {
  std::string required;
  for (const Port& port : definition.inputs) {
    if (!port.optional) required += (required.empty() ? "" : ",") + std::string(port.name);
  }
  std::vector<Attribute> attributes = definition.attributes;
  attributes.push_back(Attribute::of(kInputNames, required.c_str()));
  return attributes;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> names;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    names.push_back(text.substr(start, end - start));
    start = end + 1;
  }
  return names;
}

// The schema's index of each input that the node says it has.
std::vector<size_t> ports_of(const OpDefinition& definition, const Node& node) {
  std::vector<size_t> ports;
  const std::vector<Port>& inputs = definition.inputs;
  for (const std::string& name : split(node.text(kInputNames))) {
    size_t port = 0;
    while (port < inputs.size() && name != inputs[port].name) ++port;
    if (port == inputs.size()) {
      node.refuse_attribute(kInputNames, "has '" + name + "', which the op does not know");
    }
    if (std::count(ports.begin(), ports.end(), port)) {
      node.refuse_attribute(kInputNames, "has '" + name + "' twice");
    }
    ports.push_back(port);
  }
  for (size_t port = 0; port < inputs.size(); ++port) {
    if (!inputs[port].optional && !std::count(ports.begin(), ports.end(), port)) {
      node.refuse_attribute(kInputNames, std::string("lacks '") + inputs[port].name + "'");
    }
  }
  return ports;
}

std::vector<bool> presence(const std::vector<size_t>& ports, size_t count) {
  std::vector<bool> present(count);
  for (const size_t port : ports) present[port] = true;
  return present;
}

bool is_row(DataType type) {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

// Whether a tensor of the port may have the type, where rows have the type `row`.
bool takes(const MadeOp& made, const Port& port, DataType type, DataType row) {
  switch (port.type) {
    case PortType::f32: return type == DataType::kFLOAT;
    case PortType::int32: return type == DataType::kINT32;
    case PortType::row: return is_row(type) && type == row;
    case PortType::weight: return type == made.op->weight_type();
    case PortType::scale: return type == DataType::kBF16;
  }
  return false;
}

std::string wanted_type(const MadeOp& made, const Port& port) {
  switch (port.type) {
    case PortType::f32: return "f32";
    case PortType::int32: return "int32";
    case PortType::row: return "f32, f16 or bf16, as all rows of the node";
    case PortType::weight:
      return std::string(type_name(made.op->weight_type())) + " (attribute 'weight_format')";
    case PortType::scale: return "bf16";
  }
  return "";
}

// The type of the node's rows: that of its first input that holds rows.
template <typename TypeOf>
DataType row_type(const MadeOp& made, const TypeOf& type_of) {
  for (size_t i = 0; i < made.count(); ++i) {
    if (made.port(static_cast<int32_t>(i)).type == PortType::row) return type_of(i);
  }
  return DataType::kFLOAT;
}

Tensor tensor_of(const PluginTensorDesc& desc, const Dims& dims, const void* data) {
  return {true, desc.type, dims, data};
}

// The node's inputs by their index in the schema, of the ranks and types that the op has.
template <typename TensorAt>
Tensors bind(const MadeOp& made, const TensorAt& tensor_at) {
  Tensors tensors;
  const DataType row = row_type(made, [&](size_t i) { return tensor_at(i).type; });
  for (size_t i = 0; i < made.count(); ++i) {
    const Port& port = made.port(static_cast<int32_t>(i));
    const Tensor tensor = tensor_at(i);
    if (!takes(made, port, tensor.type, row) || tensor.dims.nbDims != port.rank) {
      refuse({made.node.label(), port.name}, "is " + describe(tensor) + ", expected " +
                                                 wanted_type(made, port) + " of " +
                                                 std::to_string(port.rank) + " axes");
    }
    tensors.of[made.ports[i]] = tensor;
  }
  return tensors;
}

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void* aligned(void* workspace) {
  return reinterpret_cast<void*>(round_up(reinterpret_cast<size_t>(workspace)));
}

bool has_elements(const PluginTensorDesc& desc) {
  return !Tensor{true, desc.type, desc.dims, nullptr}.is_empty();
}

}  // namespace

MadeOp::MadeOp(const OpDefinition& op_definition, const char* name,
               const nvinfer1::PluginFieldCollection* fields)
    : definition(op_definition),
      node(op_definition.name, name, attributes_of(op_definition), fields),
      ports(ports_of(op_definition, node)),
      op(op_definition.make(node, presence(ports, op_definition.inputs.size()))) {}

const Port& MadeOp::port(int32_t position) const {
  const size_t at = static_cast<size_t>(position);
  return at < ports.size() ? definition.inputs[ports[at]] : definition.outputs.at(at - ports.size());
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept { return new (std::nothrow) Plugin(made_); }

int32_t Plugin::getNbOutputs() const noexcept {
  return static_cast<int32_t>(made_->definition.outputs.size());
}

void Plugin::require_inputs(int32_t count) const {
  if (count == static_cast<int32_t>(made_->count())) return;
  throw Fault(made_->node.label() + ": has " + std::to_string(count) + " inputs, and attribute '" +
              kInputNames + "' names '" + made_->node.text(kInputNames) + "'");
}

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                                   int32_t input_count) const noexcept {
  return status_of([&] {
    require_inputs(input_count);
    const DataType row = row_type(*made_, [&](size_t i) { return inputs[i]; });
    for (int32_t i = 0; i < output_count; ++i) {
      switch (made_->definition.outputs.at(static_cast<size_t>(i)).type) {
        case PortType::row: outputs[i] = row; break;
        case PortType::int32: outputs[i] = DataType::kINT32; break;
        default: outputs[i] = DataType::kFLOAT;
      }
    }
  });
}

int32_t Plugin::getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*,
                                int32_t, DimsExprs* outputs, int32_t output_count,
                                nvinfer1::IExprBuilder& builder) noexcept {
  return status_of([&] {
    require_inputs(input_count);
    const DimsExprs* of[Tensors::kMost] = {};
    for (size_t i = 0; i < made_->count(); ++i) {
      const Port& port = made_->port(static_cast<int32_t>(i));
      if (inputs[i].nbDims != port.rank) {
        refuse({made_->node.label(), port.name}, "has " + std::to_string(inputs[i].nbDims) +
                                                     " axes, expected " + std::to_string(port.rank));
      }
      of[made_->ports[i]] = &inputs[i];
    }
    const auto shapes = made_->op->output_shapes(Extents(of, builder));
    for (size_t i = 0; i < shapes.size() && static_cast<int32_t>(i) < output_count; ++i) {
      outputs[i].nbDims = static_cast<int32_t>(shapes[i].size());
      std::copy(shapes[i].begin(), shapes[i].end(), outputs[i].d);
    }
  });
}

void Plugin::complain_once(int32_t position, const Tensor& tensor) noexcept {
  const uint32_t bit = uint32_t{1} << position;
  if (complained_.fetch_or(bit) & bit) return;
  status_of([&] {
    const Port& port = made_->port(position);
    const bool input = static_cast<size_t>(position) < made_->count();
    throw Fault(made_->node.label() + ": " + (input ? "input" : "output") + " '" + port.name +
                "' is " + describe(tensor) + ", expected " + wanted_type(*made_, port));
  });
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                       int32_t input_count, int32_t output_count) noexcept {
  return guarded(false, [&] {
    require_inputs(input_count);
    if (position < 0 || position >= input_count + output_count) return false;
    const PluginTensorDesc& desc = tensors[position].desc;
    if (desc.format != TensorFormat::kLINEAR) return false;
    // Rows have the type of the first of them, unless this is the first.
    const DataType row = row_type(*made_, [&](size_t i) {
      return static_cast<int32_t>(i) < position ? tensors[i].desc.type : desc.type;
    });
    if (takes(*made_, made_->port(position), desc.type, row)) return true;
    complain_once(position, tensor_of(desc, desc.dims, nullptr));
    return false;
  });
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const DynamicPluginTensorDesc*, int32_t) noexcept {
  return status_of([&] {
    require_inputs(input_count);
    made_->op->check(bind(*made_, [&](size_t i) {
      return tensor_of(inputs[i].desc, inputs[i].desc.dims, nullptr);
    }));
  });
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const DynamicPluginTensorDesc*, int32_t) const noexcept {
  return guarded(size_t{0}, [&] {
    require_inputs(input_count);
    const size_t bytes = made_->op->workspace(bind(*made_, [&](size_t i) {
      return tensor_of(inputs[i].desc, inputs[i].max, nullptr);
    }));
    return bytes ? bytes + kAlignment : 0;
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* inputs, int32_t input_count,
                              const PluginTensorDesc*, int32_t) noexcept {
  return status_of([&] {
    require_inputs(input_count);
    made_->op->check(
        bind(*made_, [&](size_t i) { return tensor_of(inputs[i], inputs[i].dims, nullptr); }));
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc* input_descs, const PluginTensorDesc* output_descs,
                        const void* const* inputs, void* const* outputs, void* workspace,
                        cudaStream_t stream) noexcept {
  return status_of([&] {
    const Tensors tensors = bind(*made_, [&](size_t i) {
      return tensor_of(input_descs[i], input_descs[i].dims, inputs[i]);
    });
    made_->op->check(tensors);
    if (!std::any_of(output_descs, output_descs + getNbOutputs(), has_elements)) return;

    const char* why = nullptr;
    const moe::cuda::Device* device = moe::cuda::current_device(&why);
    if (device == nullptr) throw Fault(made_->node.label() + ": " + (why ? why : "no GPU to run on"));

    const char* fault =
        made_->op->launch(device, tensors, outputs, aligned(workspace), stream);
    if (fault != nullptr) throw Fault(made_->node.label() + ": " + fault);
  });
}

Creator::Creator(const OpDefinition& definition)
    : definition_(definition), attributes_(attributes_of(definition)) {
  for (const Attribute& attribute : attributes_) fields_.push_back(field_of(attribute));
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginV3* Creator::createPlugin(const char* name,
                                           const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase) noexcept {
  return guarded(static_cast<nvinfer1::IPluginV3*>(nullptr), [&]() -> nvinfer1::IPluginV3* {
    return new Plugin(std::make_shared<const MadeOp>(definition_, name, fields));
  });
}

}  // namespace moe_trt
