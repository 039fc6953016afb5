// The stand-in of ONNX Runtime for ctypes: see tests/gpu/ort_harness.py.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "library.h"
#include "stand_in.h"

#define HARNESS_API extern "C" __attribute__((visibility("default")))

using namespace moe_ort_tests;
using moe_trt_tests::Memory;

struct OrtTestAttribute {
  const char* name;
  int32_t type;  // Attribute::Type
  int64_t integer;
  float number;
  const char* text;
};

struct OrtTestTensor {
  int32_t type, rank;  // type 0: an input that is left out
  int64_t dims[8];
  void* data;
  size_t bytes;
};

struct OrtTestNode {
  const char *op, *name;
  const OrtTestAttribute* attributes;
  const OrtTestTensor* inputs;
  int32_t attribute_count, input_count, runs;
};

namespace {

Node node_of(const OrtTestNode& from) {
  Node node{from.op, from.name, {}, {}};
  for (int32_t i = 0; i < from.attribute_count; ++i) {
    const OrtTestAttribute& a = from.attributes[i];
    node.attributes[a.name] = {static_cast<Attribute::Type>(a.type), a.integer, a.number,
                               a.text ? a.text : ""};
  }
  for (int32_t i = 0; i < from.input_count; ++i) {
    const OrtTestTensor& t = from.inputs[i];
    node.inputs.push_back({static_cast<ort_abi::ONNXTensorElementDataType>(t.type),
                           std::vector<int64_t>(t.dims, t.dims + t.rank), t.data});
    if (t.type && bytes_of(node.inputs.back().type, node.inputs.back().dims) != t.bytes) {
      throw moe_trt_tests::Failure{"an input has another size than its shape says"};
    }
  }
  return node;
}

void give(const Output& output, OrtTestTensor* to) {
  to->type = output.type;
  to->rank = static_cast<int32_t>(output.dims.size());
  std::copy(output.dims.begin(), output.dims.end(), to->dims);
  to->bytes = output.bytes.size();
  to->data = std::malloc(std::max<size_t>(to->bytes, 1));
  if (to->bytes) std::memcpy(to->data, output.bytes.data(), to->bytes);
}

template <typename Body>
bool worked(char* why, size_t why_size, const Body& body) {
  try {
    body();
    return true;
  } catch (const moe_trt_tests::Failure& failure) {
    std::snprintf(why, why_size, "%s", failure.text.c_str());
  } catch (const std::exception& error) {
    std::snprintf(why, why_size, "the harness failed: %s", error.what());
  }
  return false;
}

}  // namespace

HARNESS_API void* ort_open(const char* path, uint32_t newest, char* why, size_t why_size) {
  void* library = nullptr;
  worked(why, why_size, [&] { library = new Library(path, newest); });
  return library;
}

HARNESS_API int ort_run(void* library, const OrtTestNode* node, const char* memory,
                        OrtTestTensor* outputs, int32_t* output_count, char* why, size_t why_size) {
  return worked(why, why_size, [&] {
    const std::unique_ptr<Memory> of = std::strcmp(memory, "driver") == 0
                                           ? moe_trt_tests::driver_memory()
                                           : moe_trt_tests::host_memory();
    const std::vector<Output> made =
        run(*static_cast<Library*>(library), node_of(*node), *of, node->runs);
    *output_count = static_cast<int32_t>(made.size());
    for (size_t i = 0; i < std::min<size_t>(made.size(), 2); ++i) give(made[i], &outputs[i]);
  });
}

HARNESS_API void ort_free(void* data) { std::free(data); }
