#include "life.h"

#include <chrono>
#include <cstring>

#include "expressions.h"

namespace moe_trt_tests {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::IPluginV3OneBuild;
using nvinfer1::IPluginV3OneCore;
using nvinfer1::IPluginV3OneRuntime;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace {

void require(bool holds, const char* what) {
  if (!holds) throw Failure{what};
}

void require_ok(int32_t code, const char* what) {
  if (code != 0) throw Failure{std::string(what) + " returned " + std::to_string(code)};
}

template <typename Capability>
Capability& capability(IPluginV3& plugin, PluginCapabilityType type, const char* kind) {
  nvinfer1::IPluginCapability* found = plugin.getCapabilityInterface(type);
  require(found != nullptr, "a capability is missing");
  const nvinfer1::InterfaceInfo info = found->getInterfaceInfo();
  require(std::strcmp(info.kind, kind) == 0 && info.major == 1 && info.minor == 0,
          "a capability is not of version 1");
  return static_cast<Capability&>(*found);
}

IPluginV3OneCore& core(IPluginV3& plugin) {
  return capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE, "PLUGIN_V3ONE_CORE");
}
IPluginV3OneBuild& builder(IPluginV3& plugin) {
  return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD, "PLUGIN_V3ONE_BUILD");
}
IPluginV3OneRuntime& runtime(IPluginV3& plugin) {
  return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME,
                                         "PLUGIN_V3ONE_RUNTIME");
}

PluginTensorDesc desc_of(DataType type, const Dims& dims) {
  return {dims, type, TensorFormat::kLINEAR, -1.0f};
}

bool is_dynamic(const Input& input) { return input.min.d[0] != input.max.d[0]; }

DynamicPluginTensorDesc dynamic_desc(const Input& input) {
  DynamicPluginTensorDesc desc{desc_of(input.type, input.dims), input.min, input.max, input.dims};
  for (int32_t axis = 0; axis < input.dims.nbDims; ++axis) {
    if (input.min.d[axis] != input.max.d[axis]) desc.desc.dims.d[axis] = -1;
  }
  return desc;
}

std::vector<DynamicPluginTensorDesc> input_descs(const Node& node) {
  std::vector<DynamicPluginTensorDesc> descs;
  for (const Input& input : node.inputs) descs.push_back(dynamic_desc(input));
  return descs;
}

std::vector<DynamicPluginTensorDesc> output_descs(const Outcome& outcome) {
  std::vector<DynamicPluginTensorDesc> descs;
  for (const Output& output : outcome.outputs) {
    descs.push_back({desc_of(output.type, output.dims), output.dims, output.dims, output.dims});
  }
  return descs;
}

int32_t count_of(size_t size) { return static_cast<int32_t>(size); }

void ask_types(IPluginV3OneBuild& plugin, const Node& node, Outcome* outcome) {
  std::vector<DataType> given, got(outcome->outputs.size(), DataType::kBOOL);
  for (const Input& input : node.inputs) given.push_back(input.type);
  require_ok(plugin.getOutputDataTypes(got.data(), count_of(got.size()), given.data(),
                                       count_of(given.size())),
             "getOutputDataTypes");
  for (size_t i = 0; i < got.size(); ++i) outcome->outputs[i].type = got[i];
}

void ask_shapes(IPluginV3OneBuild& plugin, const Node& node, Outcome* outcome) {
  Builder expressions;
  std::vector<DimsExprs> given, got(outcome->outputs.size());
  for (const Input& input : node.inputs) {
    DimsExprs shape{};
    shape.nbDims = input.dims.nbDims;
    for (int32_t axis = 0; axis < shape.nbDims; ++axis) {
      shape.d[axis] =
          expressions.axis(input.dims.d[axis], input.min.d[axis] != input.max.d[axis]);
    }
    given.push_back(shape);
  }
  require_ok(plugin.getOutputShapes(given.data(), count_of(given.size()), nullptr, 0, got.data(),
                                    count_of(got.size()), expressions),
             "getOutputShapes");
  for (size_t i = 0; i < got.size(); ++i) {
    Dims& dims = outcome->outputs[i].dims;
    dims.nbDims = got[i].nbDims;
    for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
      dims.d[axis] = Builder::of(*got[i].d[axis]).value();
    }
  }
}

void ask_formats(IPluginV3OneBuild& plugin, const Node& node, const Outcome& outcome) {
  std::vector<DynamicPluginTensorDesc> all = input_descs(node);
  for (const DynamicPluginTensorDesc& desc : output_descs(outcome)) all.push_back(desc);
  for (size_t i = 0; i < all.size(); ++i) {
    // What lies behind a position is not the plugin's to see.
    std::vector<DynamicPluginTensorDesc> seen = all;
    for (size_t j = i + 1; j < seen.size(); ++j) seen[j].desc.type = static_cast<DataType>(99);
    require(plugin.supportsFormatCombination(count_of(i), seen.data(), count_of(node.inputs.size()),
                                             count_of(outcome.outputs.size())),
            "supportsFormatCombination refuses a type of the node");
  }
}

// What a context needs of device memory.
struct Blocks {
  std::vector<std::unique_ptr<Block>> inputs, outputs;
  std::unique_ptr<Block> workspace;

  Blocks(const Node& node, const Outcome& outcome, Memory& memory) {
    const auto block = [&](DataType type, const Dims& dims, bool of_user) {
      const size_t shift = of_user && node.shifted ? bytes_of(type, Dims{0, {}}) : 0;
      return std::make_unique<Block>(memory, bytes_of(type, dims), shift);
    };
    for (const Input& input : node.inputs) {
      inputs.push_back(block(input.type, input.dims, is_dynamic(input)));
      inputs.back()->write(input.data);
    }
    for (const Output& output : outcome.outputs) {
      outputs.push_back(block(output.type, output.dims, true));
    }
    workspace = std::make_unique<Block>(memory, outcome.workspace);
  }

  void check(const Node& node) const {
    for (const auto* blocks : {&inputs, &outputs}) {
      for (const auto& block : *blocks) require(block->whole(), "memory beside a tensor was written");
    }
    require(workspace->whole(), "memory beside the workspace was written");
    for (size_t i = 0; i < inputs.size(); ++i) {
      const std::vector<uint8_t> now = inputs[i]->read();
      require(now.empty() || std::memcmp(now.data(), node.inputs[i].data, now.size()) == 0,
              "an input was written");
    }
  }
};

// TensorRT's own offers allocators and a recorder of errors.
class Context final : public nvinfer1::IPluginResourceContext {
 public:
  nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

// A plugin of a context with everything that its enqueue is given.
class Launch {
 public:
  Launch(IPluginV3& attached, const Node& node, const Outcome& outcome, Memory& memory)
      : plugin_(runtime(attached)), memory_(memory), blocks_(node, outcome, memory) {
    for (const Input& input : node.inputs) in_.push_back(desc_of(input.type, input.dims));
    for (const Output& output : outcome.outputs) out_.push_back(desc_of(output.type, output.dims));
    for (const auto& block : blocks_.inputs) inputs_.push_back(block->data());
    for (const auto& block : blocks_.outputs) outputs_.push_back(block->data());
    require_ok(plugin_.onShapeChange(in_.data(), count_of(in_.size()), out_.data(),
                                     count_of(out_.size())),
               "onShapeChange");
  }

  void enqueue() {
    require_ok(plugin_.enqueue(in_.data(), out_.data(), inputs_.data(), outputs_.data(),
                               blocks_.workspace->data(),
                               static_cast<cudaStream_t>(memory_.stream())),
               "enqueue");
  }

  const Blocks& blocks() const { return blocks_; }

 private:
  IPluginV3OneRuntime& plugin_;
  Memory& memory_;
  const Blocks blocks_;
  std::vector<PluginTensorDesc> in_, out_;
  std::vector<const void*> inputs_;
  std::vector<void*> outputs_;
};

std::vector<std::vector<uint8_t>> run_once(IPluginV3& plugin, const Node& node,
                                           const Outcome& outcome, Memory& memory) {
  Launch launch(plugin, node, outcome, memory);
  launch.enqueue();
  memory.wait();
  launch.blocks().check(node);
  std::vector<std::vector<uint8_t>> results;
  for (const auto& block : launch.blocks().outputs) results.push_back(block->read());
  return results;
}

}  // namespace

size_t bytes_of(DataType type, const Dims& dims) {
  size_t count = 1;
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) count *= static_cast<size_t>(dims.d[axis]);
  switch (type) {
    case DataType::kFLOAT:
    case DataType::kINT32: return 4 * count;
    case DataType::kHALF:
    case DataType::kBF16: return 2 * count;
    case DataType::kINT64: return 8 * count;
    case DataType::kINT4: return (count + 1) / 2;
    default: return count;
  }
}

Plugin create(const Library& library, const Node& node) {
  nvinfer1::PluginFieldCollection fields{count_of(node.fields.size()), node.fields.data()};
  Plugin plugin(library.creator(node.op).createPlugin(node.name.c_str(), &fields,
                                                      nvinfer1::TensorRTPhase::kBUILD));
  require(plugin != nullptr, "createPlugin returned null");
  require(node.op == core(*plugin).getPluginName(), "the plugin has another name");
  require(std::strcmp(core(*plugin).getPluginNamespace(), "moe_export") == 0, "another namespace");
  require(std::strcmp(core(*plugin).getPluginVersion(), "1") == 0, "another version");
  return plugin;
}

void Fields::add(const nvinfer1::PluginField& field) {
  const size_t size = field.type == nvinfer1::PluginFieldType::kCHAR ? 1 : 4;
  const char* value = static_cast<const char*>(field.data);
  memory_.emplace_back(field.name, field.name + std::strlen(field.name) + 1);
  const char* name = memory_.back().data();
  memory_.emplace_back(value, value + size * static_cast<size_t>(field.length));
  fields_.emplace_back(name, memory_.back().data(), field.type, field.length);
}

Fields serialised(IPluginV3& plugin) {
  const nvinfer1::PluginFieldCollection* kept = runtime(plugin).getFieldsToSerialize();
  require(kept != nullptr, "getFieldsToSerialize returned null");
  Fields fields;
  for (int32_t i = 0; i < kept->nbFields; ++i) fields.add(kept->fields[i]);
  return fields;
}

Plugin recreate(const Library& library, const Node& node, IPluginV3& built) {
  const Fields fields = serialised(built);
  const nvinfer1::PluginFieldCollection collection = fields.collection();
  Plugin plugin(library.creator(node.op).createPlugin("", &collection,
                                                      nvinfer1::TensorRTPhase::kRUNTIME));
  require(plugin != nullptr, "createPlugin returned null for what was serialised");
  return plugin;
}

Outcome build(IPluginV3& plugin, const Node& node) {
  IPluginV3OneBuild& asked = builder(plugin);
  Outcome outcome;
  outcome.outputs.resize(static_cast<size_t>(asked.getNbOutputs()));
  ask_types(asked, node, &outcome);
  ask_shapes(asked, node, &outcome);
  ask_formats(asked, node, outcome);
  const std::vector<DynamicPluginTensorDesc> in = input_descs(node), out = output_descs(outcome);
  require_ok(asked.configurePlugin(in.data(), count_of(in.size()), out.data(), count_of(out.size())),
             "configurePlugin");
  const auto workspace = [&](const std::vector<DynamicPluginTensorDesc>& descs) {
    return asked.getWorkspaceSize(descs.data(), count_of(descs.size()), out.data(),
                                  count_of(out.size()));
  };
  std::vector<DynamicPluginTensorDesc> exact = in;
  for (size_t i = 0; i < exact.size(); ++i) exact[i].max = node.inputs[i].dims;
  outcome.workspace = workspace(in);
  require(workspace(exact) <= outcome.workspace, "a smaller problem wants a larger workspace");
  return outcome;
}

void run(IPluginV3& plugin, const Node& node, Memory& memory, Outcome* outcome) {
  Context context;
  const Plugin first(runtime(plugin).attachToContext(&context));
  const Plugin second(runtime(plugin).attachToContext(&context));
  require(first && second && first != second, "attachToContext gave no plugin of its own");
  const auto results = run_once(*first, node, *outcome, memory);
  require(results == run_once(*second, node, *outcome, memory), "two contexts disagree");
  require(results == run_once(*first, node, *outcome, memory), "a second run differs from the first");
  for (size_t i = 0; i < results.size(); ++i) outcome->outputs[i].bytes = results[i];
}

double timed(IPluginV3& plugin, const Node& node, const Outcome& built, Memory& memory, int runs) {
  Context context;
  const Plugin attached(runtime(plugin).attachToContext(&context));
  require(attached != nullptr, "attachToContext returned null");
  Launch launch(*attached, node, built, memory);
  // Eviction goes before each run and is taken off again; it also hides what a launch costs the host.
  const auto spent = [&](bool with_it) {
    memory.wait();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < runs; ++i) {
      memory.evict();
      if (with_it) launch.enqueue();
    }
    memory.wait();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / runs;
  };
  spent(true);
  return spent(true) - spent(false);
}

Outcome live(const Library& library, const Node& node, Memory& memory) {
  Plugin plugin = create(library, node);
  plugin.reset(plugin->clone());  // the network keeps a copy
  require(plugin != nullptr, "clone returned null");
  Outcome outcome = build(*plugin, node);
  plugin = recreate(library, node, *plugin);
  run(*plugin, node, memory, &outcome);
  return outcome;
}

std::vector<DataType> types_taken(IPluginV3& plugin, const Node& node, const Outcome& built,
                                  size_t position) {
  std::vector<DynamicPluginTensorDesc> all = input_descs(node);
  for (const DynamicPluginTensorDesc& desc : output_descs(built)) all.push_back(desc);
  std::vector<DataType> taken;
  for (int32_t type = 0; type < nvinfer1::EnumMax<DataType>(); ++type) {
    for (int32_t format = 0; format < nvinfer1::EnumMax<TensorFormat>(); ++format) {
      all[position].desc.type = static_cast<DataType>(type);
      all[position].desc.format = static_cast<TensorFormat>(format);
      if (!builder(plugin).supportsFormatCombination(count_of(position), all.data(),
                                                     count_of(node.inputs.size()),
                                                     count_of(built.outputs.size()))) {
        continue;
      }
      require(format == static_cast<int32_t>(TensorFormat::kLINEAR),
              "a format that is not linear is taken");
      taken.push_back(static_cast<DataType>(type));
    }
  }
  return taken;
}

}  // namespace moe_trt_tests
