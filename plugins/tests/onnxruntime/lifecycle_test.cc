// A layer in four nodes over the stand-in of ONNX Runtime, beside the same sum written out: with the
// sanitizers this is what watches the ops.  usage: ort_cuda_lifecycle LIBRARY
#include <cmath>
#include <cstdio>
#include <cstring>

#include "library.h"
#include "stand_in.h"

namespace {

using namespace moe_ort_tests;
using namespace ort_abi;
using moe_trt_tests::Failure;
using moe_trt_tests::Memory;

constexpr size_t kTokens = 3, kExperts = 4, kTopK = 2, kWidth = 6;
constexpr ONNXTensorElementDataType kF32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr ONNXTensorElementDataType kI32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;

int failures = 0;

void expect(bool right, const char* what) {
  if (right) return;
  std::printf("FAILED: %s\n", what);
  ++failures;
}

template <typename Number>
std::vector<Number> numbers(const Output& output) {
  std::vector<Number> made(output.bytes.size() / sizeof(Number));
  if (!made.empty()) std::memcpy(made.data(), output.bytes.data(), output.bytes.size());
  return made;
}

Attribute integer(int64_t value) { return {Attribute::Type::integer, value, 0, ""}; }
Attribute text(const char* value) { return {Attribute::Type::text, 0, 0, value}; }

struct Layer {
  std::vector<float> logits, x, weights;

  explicit Layer(size_t tokens) {
    for (size_t i = 0; i < tokens * kExperts; ++i) logits.push_back(std::sin(1.7f * i));
    for (size_t i = 0; i < tokens * kWidth; ++i) x.push_back(std::cos(0.9f * i));
    for (size_t i = 0; i < kExperts * kWidth * kWidth; ++i) weights.push_back(std::sin(0.3f * i + 1));
  }
};

// Both ways through a layer of linear experts: one op, and its three parts.
void check_layer(const Library& library, Memory& memory, size_t tokens) {
  const Layer layer(tokens);
  const auto dim = [](size_t size) { return static_cast<int64_t>(size); };
  const auto go = [&](Node node) { return run(library, node, memory, 2); };
  const Input weights{kF32, {dim(kExperts), dim(kWidth), dim(kWidth)}, layer.weights.data()};
  const Input x{kF32, {dim(tokens), dim(kWidth)}, layer.x.data()};

  const auto routed = go({"Router", "a", {{"top_k", integer(kTopK)}},
                          {{kF32, {dim(tokens), dim(kExperts)}, layer.logits.data()}}});
  const Input topk_weights{kF32, routed[0].dims, routed[0].bytes.data()};
  const Input topk_ids{kI32, routed[1].dims, routed[1].bytes.data()};
  const auto whole = go({"Experts", "b", {{"activation", text("identity")}, {"gated", integer(0)}},
                         {x, topk_ids, topk_weights, {}, weights}});

  const auto order = go({"Dispatch", "c", {{"num_experts", integer(kExperts)}}, {topk_ids}});
  const Input sorted_order{kI32, order[0].dims, order[0].bytes.data()};
  const Input offsets{kI32, order[1].dims, order[1].bytes.data()};
  std::vector<float> rows;
  for (const int32_t assignment : numbers<int32_t>(order[0])) {
    const float* row = layer.x.data() + static_cast<size_t>(assignment) / kTopK * kWidth;
    rows.insert(rows.end(), row, row + kWidth);
  }
  const auto products = go({"GroupedMatMul", "d", {},
                            {{kF32, {dim(tokens * kTopK), dim(kWidth)}, rows.data()}, offsets,
                             weights}});
  const auto sum = go({"Combine", "e", {},
                       {{kF32, products[0].dims, products[0].bytes.data()}, sorted_order,
                        topk_weights}});

  const auto ids = numbers<int32_t>(routed[1]);
  const auto shares = numbers<float>(routed[0]), fused = numbers<float>(whole[0]);
  const auto parts = numbers<float>(sum[0]);
  expect(fused.size() == tokens * kWidth && parts.size() == fused.size(), "y is [T, Hout]");
  expect(numbers<int32_t>(order[1]).back() == static_cast<int32_t>(tokens * kTopK),
         "the offsets end with all assignments");
  for (size_t i = 0; i < fused.size(); ++i) {
    double meant = 0;
    for (size_t k = 0; k < kTopK; ++k) {
      const size_t assignment = i / kWidth * kTopK + k;
      const size_t row = static_cast<size_t>(ids[assignment]) * kWidth + i % kWidth;
      for (size_t h = 0; h < kWidth; ++h) {
        meant += double{shares[assignment]} * layer.weights[row * kWidth + h] *
                 layer.x[i / kWidth * kWidth + h];
      }
    }
    // Sums of K*H numbers below 1, each rounded three times.
    constexpr double bound = 3 * kTopK * kWidth * 6e-8 * kTopK * kWidth;
    expect(std::fabs(fused[i] - meant) <= bound, "Experts is the sum");
    expect(std::fabs(parts[i] - meant) <= bound, "Dispatch, GroupedMatMul and Combine are the sum");
  }
}

std::string refusal(const Library& library, Memory& memory, const Node& node) {
  try {
    run(library, node, memory, 1);
  } catch (const Failure& failure) {
    return failure.text;
  }
  return "";
}

int test(const char* path) {
  try {
    Library(path, kCudaApiVersion - 1);
    expect(false, "an older ONNX Runtime is refused");
  } catch (const Failure& failure) {
    expect(failure.text.find("1.18") != std::string::npos, "the words name the version");
  }
  const Library library(path, kCudaApiVersion);
  const auto memory = moe_trt_tests::host_memory();
  check_layer(library, *memory, kTokens);
  check_layer(library, *memory, 0);
  const Node without_top_k{"Router", "layers.3", {}, {{kF32, {0, 4}, nullptr}}};
  expect(refusal(library, *memory, without_top_k)
                 .rfind("moe_export.Router node 'layers.3': attribute 'top_k'", 0) == 0,
         "a refusal names node and attribute");
  return failures != 0;
}

}  // namespace

int main(int count, char** words) {
  if (count != 2) return 2;
  try {
    return test(words[1]);
  } catch (const Failure& failure) {
    std::printf("FAILED: %s\n", failure.text.c_str());
    return 1;
  }
}
