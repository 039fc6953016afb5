#include "stand_in.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "library.h"

// The interface's opaque types are the stand-in's own.
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

using namespace ort_abi;
using moe_trt_tests::Block;
using moe_trt_tests::Failure;
using moe_trt_tests::Memory;

namespace {

const OrtMemoryInfo kGpu{3};

// What a library has been given and has not given back.
struct Lent {
  int statuses = 0, descriptions = 0, allocators = 0;
} lent;

OrtStatus* failed(const std::string& text) {
  ++lent.statuses;
  return new OrtStatus{text};
}

void not_there() {
  std::fprintf(stderr, "a function was called that no custom op of this library needs\n");
  std::abort();
}

OrtStatus* give_text(const std::string& text, char* out, size_t* size) {
  const size_t room = *size;
  *size = text.size() + 1;
  if (out == nullptr) return nullptr;
  if (room < *size) return failed("there is no room for the text");
  std::memcpy(out, text.c_str(), *size);
  return nullptr;
}

const Attribute* attribute(const OrtKernelInfo* info, const char* name, Attribute::Type type) {
  const auto found = info->node->attributes.find(name);
  if (found == info->node->attributes.end() || found->second.type != type) return nullptr;
  return &found->second;
}

OrtStatus* take(OrtKernelContext* context, const OrtMemoryInfo* memory, size_t bytes, void** out) {
  if (memory->device != kGpu.device) return failed("memory of another device was asked for");
  context->scratch.push_back({std::make_unique<Block>(*context->memory, bytes), false});
  *out = context->scratch.back().block->data();
  return nullptr;
}

void fill_values(OrtApi* api) {
  api->GetTensorTypeAndShape = [](const OrtValue* value, OrtTensorTypeAndShapeInfo** out) {
    ++lent.descriptions;
    *out = new OrtTensorTypeAndShapeInfo{value->type, value->dims};
    return static_cast<OrtStatus*>(nullptr);
  };
  api->ReleaseTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo* info) {
    --lent.descriptions;
    delete info;
  };
  api->GetTensorElementType = [](const OrtTensorTypeAndShapeInfo* info,
                                 ONNXTensorElementDataType* out) {
    *out = info->type;
    return static_cast<OrtStatus*>(nullptr);
  };
  api->GetDimensionsCount = [](const OrtTensorTypeAndShapeInfo* info, size_t* out) {
    *out = info->dims.size();
    return static_cast<OrtStatus*>(nullptr);
  };
  api->GetDimensions = [](const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count) {
    std::copy_n(info->dims.begin(), std::min(count, info->dims.size()), dims);
    return static_cast<OrtStatus*>(nullptr);
  };
  api->GetTensorMutableData = [](OrtValue* value, void** out) {
    *out = value->block->data();
    return static_cast<OrtStatus*>(nullptr);
  };
  api->GetTensorMemoryInfo = [](const OrtValue*, const OrtMemoryInfo** out) {
    *out = &kGpu;
    return static_cast<OrtStatus*>(nullptr);
  };
}

void fill_node(OrtApi* api) {
  api->KernelInfoGetAttribute_int64 = [](const OrtKernelInfo* info, const char* name, int64_t* out) {
    const Attribute* found = attribute(info, name, Attribute::Type::integer);
    if (found == nullptr) return failed("no such attribute");
    *out = found->integer;
    return static_cast<OrtStatus*>(nullptr);
  };
  api->KernelInfoGetAttribute_float = [](const OrtKernelInfo* info, const char* name, float* out) {
    const Attribute* found = attribute(info, name, Attribute::Type::number);
    if (found == nullptr) return failed("no such attribute");
    *out = found->number;
    return static_cast<OrtStatus*>(nullptr);
  };
  api->KernelInfoGetAttribute_string = [](const OrtKernelInfo* info, const char* name, char* out,
                                          size_t* size) {
    const Attribute* found = attribute(info, name, Attribute::Type::text);
    return found == nullptr ? failed("no such attribute") : give_text(found->text, out, size);
  };
  api->KernelInfo_GetNodeName = [](const OrtKernelInfo* info, char* out, size_t* size) {
    return give_text(info->node->name, out, size);
  };
  api->KernelInfo_GetInputCount = [](const OrtKernelInfo* info, size_t* out) {
    *out = info->node->inputs.size();
    return static_cast<OrtStatus*>(nullptr);
  };
  api->KernelInfo_GetInputName = [](const OrtKernelInfo* info, size_t index, char* out,
                                    size_t* size) {
    const bool present = info->node->inputs[index].type != ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    return give_text(present ? "input" + std::to_string(index) : "", out, size);
  };
}

void fill_run(OrtApi* api) {
  api->KernelContext_GetInputCount = [](const OrtKernelContext* context, size_t* out) {
    *out = context->inputs.size();
    return static_cast<OrtStatus*>(nullptr);
  };
  api->KernelContext_GetInput = [](const OrtKernelContext* context, size_t index,
                                   const OrtValue** out) {
    *out = context->inputs.at(index);
    return static_cast<OrtStatus*>(nullptr);
  };
  api->KernelContext_GetOutput = [](OrtKernelContext* context, size_t index, const int64_t* dims,
                                    size_t rank, OrtValue** out) {
    auto made = std::make_unique<OrtValue>();
    made->type = context->output_types.at(index);
    made->dims.assign(dims, dims + rank);
    made->block = std::make_unique<Block>(*context->memory, bytes_of(made->type, made->dims));
    context->outputs.at(index) = std::move(made);
    *out = context->outputs[index].get();
    return static_cast<OrtStatus*>(nullptr);
  };
  api->KernelContext_GetGPUComputeStream = [](const OrtKernelContext* context, void** out) {
    *out = context->stream;
    return static_cast<OrtStatus*>(nullptr);
  };
  api->KernelContext_GetScratchBuffer = [](const OrtKernelContext* context,
                                           const OrtMemoryInfo* memory, size_t bytes, void** out) {
    // As the real one: it would follow a stream that is not there.
    if (context->stream == nullptr) not_there();
    return take(const_cast<OrtKernelContext*>(context), memory, bytes, out);
  };
  api->KernelContext_GetAllocator = [](const OrtKernelContext* context, const OrtMemoryInfo* memory,
                                       OrtAllocator** out) {
    if (memory->device != kGpu.device) return failed("an allocator of another device");
    ++lent.allocators;
    *out = new OrtAllocator{const_cast<OrtKernelContext*>(context)};
    return static_cast<OrtStatus*>(nullptr);
  };
  api->AllocatorAlloc = [](OrtAllocator* allocator, size_t bytes, void** out) {
    return take(allocator->context, &kGpu, bytes, out);
  };
  // What is freed stays until the stream has been waited for: the kernels may still be to come.
  api->AllocatorFree = [](OrtAllocator* allocator, void* address) {
    for (auto& scratch : allocator->context->scratch) {
      if (scratch.block->data() != address || scratch.freed) continue;
      scratch.freed = true;
      return static_cast<OrtStatus*>(nullptr);
    }
    return failed("memory was freed that was not taken");
  };
  api->ReleaseAllocator = [](OrtAllocator* allocator) {
    --lent.allocators;
    delete allocator;
  };
}

// A library keeps its domain until the process ends.
std::vector<std::unique_ptr<OrtCustomOpDomain>>& domains() {
  static std::vector<std::unique_ptr<OrtCustomOpDomain>> all;
  return all;
}

const OrtApi* api() {
  static const OrtApi* const made = [] {
    static OrtApi api;
    auto* slots = reinterpret_cast<void (**)()>(&api);
    std::fill_n(slots, sizeof api / sizeof *slots, &not_there);
    api.CreateStatus = [](OrtErrorCode, const char* message) { return failed(message); };
    api.GetErrorMessage = [](const OrtStatus* status) { return status->text.c_str(); };
    api.ReleaseStatus = [](OrtStatus* status) {
      --lent.statuses;
      delete status;
    };
    api.CreateCustomOpDomain = [](const char* domain, OrtCustomOpDomain** out) {
      domains().push_back(std::make_unique<OrtCustomOpDomain>(OrtCustomOpDomain{domain, {}}));
      *out = domains().back().get();
      return static_cast<OrtStatus*>(nullptr);
    };
    api.CustomOpDomain_Add = [](OrtCustomOpDomain* domain, const OrtCustomOp* op) {
      domain->ops.push_back(op);
      return static_cast<OrtStatus*>(nullptr);
    };
    api.AddCustomOpDomain = [](OrtSessionOptions* options, OrtCustomOpDomain* domain) {
      options->domains.push_back(domain);
      return static_cast<OrtStatus*>(nullptr);
    };
    api.ReleaseCustomOpDomain = [](OrtCustomOpDomain* domain) {
      auto& all = domains();
      all.erase(std::remove_if(all.begin(), all.end(),
                               [&](const auto& kept) { return kept.get() == domain; }),
                all.end());
    };
    fill_values(&api);
    fill_node(&api);
    fill_run(&api);
    return &api;
  }();
  return made;
}

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

size_t bytes_of(ONNXTensorElementDataType type, const std::vector<int64_t>& dims) {
  size_t elements = 1;
  for (const int64_t dim : dims) elements *= static_cast<size_t>(dim);
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return 4 * elements;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return 2 * elements;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4: return (elements + 1) / 2;
    default: return elements;
  }
}

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
