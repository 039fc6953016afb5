// TensorRT's expressions of dimensions, as far as plugins use them: constants, inputs' axes that are
// known later, and sums, products and the like of both.
#ifndef MOE_EXPORT_PLUGINS_TESTS_TENSORRT_EXPRESSIONS_H_
#define MOE_EXPORT_PLUGINS_TESTS_TENSORRT_EXPRESSIONS_H_

#include <memory>
#include <vector>

#include <NvInferRuntime.h>

namespace moe_trt_tests {

class Expression final : public nvinfer1::IDimensionExpr, nvinfer1::apiv::VDimensionExpr {
 public:
  // `known` is false for an axis whose value comes with the data, and for what is made of one.
  Expression(int64_t value, bool known) : value_(value), known_(known) { mImpl = this; }
  ~Expression() noexcept override = default;
  int64_t value() const { return value_; }  // when everything is known
  bool known() const { return known_; }

 private:
  bool isConstant() const override { return known_; }
  int64_t getConstantValue() const override { return known_ ? value_ : INT64_MIN; }
  bool isSizeTensor() const override { return false; }

  int64_t value_;
  bool known_;
};

class Builder final : public nvinfer1::IExprBuilder, nvinfer1::apiv::VExprBuilder {
 public:
  Builder() { mImpl = this; }
  ~Builder() noexcept override = default;

  const Expression* axis(int64_t value, bool dynamic) { return make(value, !dynamic); }
  static const Expression& of(const nvinfer1::IDimensionExpr& expression) {
    return static_cast<const Expression&>(expression);
  }

 private:
  const nvinfer1::IDimensionExpr* constant(int64_t value) override { return make(value, true); }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                            const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override;
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }
  const Expression* make(int64_t value, bool known) {
    made_.push_back(std::make_unique<Expression>(value, known));
    return made_.back().get();
  }

  std::vector<std::unique_ptr<Expression>> made_;
};

}  // namespace moe_trt_tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_TENSORRT_EXPRESSIONS_H_
