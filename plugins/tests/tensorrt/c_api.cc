#include "c_api.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "life.h"

#define HARNESS_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace moe_trt_tests;

nvinfer1::Dims dims_of(const int64_t (&from)[8], int32_t rank) {
  nvinfer1::Dims dims{};
  dims.nbDims = rank;
  std::copy(from, from + 8, dims.d);
  return dims;
}

Node node_of(const TrtNode& from) {
  Node node{from.op, from.name, {}, {}, from.shifted != 0};
  for (int32_t i = 0; i < from.field_count; ++i) {
    const TrtField& field = from.fields[i];
    node.fields.emplace_back(field.name, field.data,
                             static_cast<nvinfer1::PluginFieldType>(field.type), field.length);
  }
  for (int32_t i = 0; i < from.input_count; ++i) {
    const TrtInput& input = from.inputs[i];
    node.inputs.push_back({static_cast<nvinfer1::DataType>(input.type), dims_of(input.dims, input.rank),
                           dims_of(input.min, input.rank), dims_of(input.max, input.rank), input.data});
  }
  return node;
}

void give(const Output& output, TrtOutput* to) {
  to->type = static_cast<int32_t>(output.type);
  to->rank = output.dims.nbDims;
  std::copy(output.dims.d, output.dims.d + 8, to->dims);
  to->bytes = output.bytes.size();
  to->data = std::malloc(std::max<size_t>(to->bytes, 1));
  if (to->bytes) std::memcpy(to->data, output.bytes.data(), to->bytes);
}

int32_t give(const nvinfer1::PluginFieldCollection& from, TrtField* to, int32_t most) {
  for (int32_t i = 0; i < std::min(from.nbFields, most); ++i) {
    const nvinfer1::PluginField& field = from.fields[i];
    to[i] = {field.name, field.data, static_cast<int32_t>(field.type), field.length};
  }
  return from.nbFields;
}

// What body returns; `failed`, with words in why, where it throws.
template <typename Result, typename Body>
Result guarded(Result failed, char* why, size_t why_size, const Body& body) {
  try {
    return body();
  } catch (const Failure& failure) {
    std::snprintf(why, why_size, "%s", failure.text.c_str());
  } catch (const std::exception& error) {
    std::snprintf(why, why_size, "the harness failed: %s", error.what());
  }
  return failed;
}

std::unique_ptr<Memory> memory_named(const char* name) {
  return std::strcmp(name, "driver") == 0 ? driver_memory() : host_memory();
}

const Library& library_at(void* handle) { return *static_cast<const Library*>(handle); }

}  // namespace

HARNESS_API void* trt_open(const char* path, char* why, size_t why_size) {
  return guarded(static_cast<void*>(nullptr), why, why_size,
                 [&]() -> void* { return new Library(path); });
}

HARNESS_API void trt_close(void* library) { delete static_cast<Library*>(library); }

HARNESS_API int trt_live(void* library, const TrtNode* node, const char* memory, TrtOutput* outputs,
                         int32_t* output_count, size_t* workspace, char* why, size_t why_size) {
  return guarded(1, why, why_size, [&] {
    const std::unique_ptr<Memory> of = memory_named(memory);
    const Outcome outcome = live(library_at(library), node_of(*node), *of);
    *output_count = static_cast<int32_t>(outcome.outputs.size());
    *workspace = outcome.workspace;
    for (size_t i = 0; i < std::min<size_t>(outcome.outputs.size(), 2); ++i) {
      give(outcome.outputs[i], &outputs[i]);
    }
    return 0;
  });
}

HARNESS_API int trt_time(void* library, const TrtNode* node, const char* memory, int32_t runs,
                         double* seconds, char* why, size_t why_size) {
  return guarded(1, why, why_size, [&] {
    const std::unique_ptr<Memory> of = memory_named(memory);
    const Node asked = node_of(*node);
    const Plugin plugin = create(library_at(library), asked);
    const Outcome built = build(*plugin, asked);
    const Plugin run = recreate(library_at(library), asked, *plugin);
    *seconds = timed(*run, asked, built, *of, runs);
    return 0;
  });
}

HARNESS_API void trt_free(void* data) { std::free(data); }

HARNESS_API int trt_types_taken(void* library, const TrtNode* node, int32_t position, uint32_t* types,
                                char* why, size_t why_size) {
  return guarded(1, why, why_size, [&] {
    const Node asked = node_of(*node);
    const Plugin plugin = create(library_at(library), asked);
    const Outcome built = build(*plugin, asked);
    *types = 0;
    for (const nvinfer1::DataType type :
         types_taken(*plugin, asked, built, static_cast<size_t>(position))) {
      *types |= uint32_t{1} << static_cast<int>(type);
    }
    return 0;
  });
}

HARNESS_API int32_t trt_serialised(void* library, const TrtNode* node, TrtField* fields, int32_t most,
                                   char* why, size_t why_size) {
  return guarded(-1, why, why_size, [&] {
    static Fields kept;
    kept = serialised(*create(library_at(library), node_of(*node)));
    return give(kept.collection(), fields, most);
  });
}

HARNESS_API int32_t trt_declared(void* library, const char* op, TrtField* fields, int32_t most,
                                 char* why, size_t why_size) {
  return guarded(-1, why, why_size, [&] {
    return give(*library_at(library).creator(op).getFieldNames(), fields, most);
  });
}
