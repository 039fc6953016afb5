#include "interface.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace moe_ort_tests {

using namespace ort_abi;
using moe_trt_tests::Block;

Lent lent;

namespace {

const OrtMemoryInfo kGpu{3};

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

}  // namespace

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

}  // namespace moe_ort_tests
