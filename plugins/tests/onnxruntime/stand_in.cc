#include "stand_in.h"

#include <dlfcn.h>

#include <cstring>

#include "interface.h"
#include "library.h"

namespace moe_ort_tests {

using namespace ort_abi;
using moe_trt_tests::Block;
using moe_trt_tests::Failure;
using moe_trt_tests::Memory;

namespace {

void require(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string text = status->text;
  api()->ReleaseStatus(status);
  throw Failure{text};
}

uint32_t newest_version = 0;

const OrtApi* api_of(uint32_t version) { return version <= newest_version ? api() : nullptr; }

bool takes(const OrtCustomOp& op, const Node& node) {
  if (node.op != op.GetName(&op)) return false;
  if (node.inputs.size() > op.GetInputTypeCount(&op)) return false;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const ONNXTensorElementDataType wanted = op.GetInputType(&op, i), type = node.inputs[i].type;
    const bool optional = op.GetInputCharacteristic(&op, i) == INPUT_OUTPUT_OPTIONAL;
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED ? !optional
        : wanted != ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED && wanted != type) {
      return false;
    }
  }
  return true;
}

struct LiveKernel {
  const OrtCustomOp& op;
  void* kernel = nullptr;
  ~LiveKernel() {
    if (kernel != nullptr) op.KernelDestroy(kernel);
  }
};

void require_clean(const OrtKernelContext& context, const Node& node) {
  for (size_t i = 0; i < context.inputs.size(); ++i) {
    const OrtValue* input = context.inputs[i];
    if (input == nullptr) continue;
    const std::string name = "input " + std::to_string(i);
    if (!input->block->whole()) throw Failure{name + ": a guard was written over"};
    const std::vector<uint8_t> now = input->block->read();
    if (!now.empty() && std::memcmp(now.data(), node.inputs[i].data, now.size()) != 0) {
      throw Failure{name + " was written to"};
    }
  }
  for (const auto& output : context.outputs) {
    if (output == nullptr) throw Failure{"an output was never asked for"};
    if (!output->block->whole()) throw Failure{"a guard of an output was written over"};
  }
  for (const auto& scratch : context.scratch) {
    if (!scratch.freed) throw Failure{"memory for a while was never freed"};
    if (!scratch.block->whole()) throw Failure{"a guard of memory for a while was written over"};
  }
}

std::vector<Output> compute(const OrtCustomOp& op, void* kernel, const Node& node,
                            const std::vector<OrtValue*>& inputs, Memory& memory) {
  // Kernels on the host look at no stream; one that is not there is the default stream.
  static int some_stream;
  void* stream = memory.stream() != nullptr ? memory.stream() : &some_stream;
  OrtKernelContext context{inputs, {}, {}, &memory, stream, {}};
  for (size_t i = 0; i < op.GetOutputTypeCount(&op); ++i) {
    context.output_types.push_back(op.GetOutputType(&op, i));
  }
  context.outputs.resize(context.output_types.size());
  require(op.KernelComputeV2(kernel, &context));
  memory.wait();
  require_clean(context, node);
  std::vector<Output> outputs;
  for (const auto& output : context.outputs) {
    outputs.push_back({output->type, output->dims, output->block->read()});
  }
  return outputs;
}

void require_nothing_lent() {
  const Lent now = lent;
  lent = {};
  if (now.statuses) throw Failure{"a status was not released, or twice"};
  if (now.descriptions) throw Failure{"a tensor's description was not released, or twice"};
  if (now.allocators) throw Failure{"an allocator was not released, or twice"};
}

}  // namespace

Library::Library(const std::string& path, uint32_t newest) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw Failure{dlerror()};
  using Register = OrtStatus* (*)(OrtSessionOptions*, const OrtApiBase*);
  const auto enter = reinterpret_cast<Register>(dlsym(handle, "RegisterCustomOps"));
  if (enter == nullptr) throw Failure{path + " has no RegisterCustomOps"};
  newest_version = newest;
  static const OrtApiBase base{api_of, [] { return "stand-in"; }};
  OrtSessionOptions options;
  require(enter(&options, &base));
  for (const OrtCustomOpDomain* domain : options.domains) {
    if (domain->name != "moe_export") throw Failure{"a domain is called " + domain->name};
    ops_.insert(ops_.end(), domain->ops.begin(), domain->ops.end());
  }
  for (const OrtCustomOp* op : ops_) {
    const std::string provider = op->GetExecutionProviderType(op);
    if (provider != "CUDAExecutionProvider") throw Failure{"an op is for " + provider};
    for (size_t i = 0; i < op->GetInputTypeCount(op); ++i) {
      if (op->GetInputMemoryType(op, i) != OrtMemTypeDefault) throw Failure{"an input on the host"};
    }
  }
}

const OrtCustomOp& Library::op_for(const Node& node) const {
  const OrtCustomOp* found = nullptr;
  for (const OrtCustomOp* op : ops_) {
    if (!takes(*op, node)) continue;
    if (found != nullptr) throw Failure{"two ops take the node " + node.op};
    found = op;
  }
  if (found == nullptr) throw Failure{"no op takes the types of the node " + node.op};
  return *found;
}

std::vector<Output> run(const Library& library, const Node& node, Memory& memory, int runs) {
  lent = {};
  const OrtCustomOp& op = library.op_for(node);
  std::vector<std::unique_ptr<OrtValue>> values;
  std::vector<OrtValue*> inputs;
  for (const Input& input : node.inputs) {
    inputs.push_back(nullptr);
    if (input.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED) continue;
    values.push_back(std::make_unique<OrtValue>());
    inputs.back() = values.back().get();
    *inputs.back() = {input.type, input.dims,
                      std::make_unique<Block>(memory, bytes_of(input.type, input.dims))};
    inputs.back()->block->write(input.data);
  }
  std::vector<Output> outputs;
  {
    LiveKernel live{op};
    const OrtKernelInfo info{&node};
    require(op.CreateKernelV2(&op, api(), &info, &live.kernel));
    for (int i = 0; i < runs; ++i) {
      std::vector<Output> made = compute(op, live.kernel, node, inputs, memory);
      for (size_t o = 0; i > 0 && o < made.size(); ++o) {
        if (made[o].bytes != outputs[o].bytes) throw Failure{"two runs gave two results"};
      }
      outputs = std::move(made);
    }
  }
  require_nothing_lent();
  return outputs;
}

}  // namespace moe_ort_tests
