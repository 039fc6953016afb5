#include "expressions.h"

#include <algorithm>

namespace moe_trt_tests {

namespace {

int64_t apply(nvinfer1::DimensionOperation op, int64_t a, int64_t b) {
  using Op = nvinfer1::DimensionOperation;
  switch (op) {
    case Op::kSUM: return a + b;
    case Op::kPROD: return a * b;
    case Op::kMAX: return std::max(a, b);
    case Op::kMIN: return std::min(a, b);
    case Op::kSUB: return a - b;
    case Op::kEQUAL: return a == b;
    case Op::kLESS: return a < b;
    case Op::kFLOOR_DIV: return a / b;
    case Op::kCEIL_DIV: return (a + b - 1) / b;
  }
  return INT64_MIN;
}

}  // namespace

const nvinfer1::IDimensionExpr* Builder::operation(nvinfer1::DimensionOperation op,
                                                   const nvinfer1::IDimensionExpr& first,
                                                   const nvinfer1::IDimensionExpr& second) {
  const Expression &a = of(first), &b = of(second);
  return make(apply(op, a.value(), b.value()), a.known() && b.known());
}

}  // namespace moe_trt_tests
