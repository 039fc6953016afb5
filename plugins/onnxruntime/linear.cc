// Linear: one matrix on every row, the one-expert case of GroupedMatMul.
#include <algorithm>

#include "custom_op.h"
#include "weight.h"

namespace moe_ort {

namespace {

enum Input : size_t { kX, kWeight, kBias, kScales, kZeros };

class Linear : public Kernel {
 public:
  explicit Linear(const Node& node)
      : node_(node.label()),
        isa_(isa_of(node)),
        storage_(read_storage(node)),
        weight_(node, storage_, matrix()) {}

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Weight::Loan weight = weight_.borrow(call, *scratch_);
    const moe::Panels& panels = weight.panels;
    const Tensor x = call.input(kX), bias = call.input(kBias);
    if (x.type != f32 || x.rank == 0 || x.dim(x.rank - 1) != panels.columns) {
      refuse({node_, "x"}, "is " + describe(x) + ", expected float32 [..., H=" +
                               std::to_string(panels.columns) + "]");
    }
    if (bias.present) expect({node_, "bias"}, bias, f32, {{"N", panels.rows}});

    int64_t shape[kMaxRank];
    std::copy_n(x.dims, x.rank, shape);
    shape[x.rank - 1] = static_cast<int64_t>(panels.rows);
    float* y = call.floats(0, shape, x.rank);
    const size_t rows = x.elements() / panels.columns;
    if (rows == 0) return;
    const Scratch::Lease work =
        scratch_->take(moe::linear_scratch(isa_, panels, storage_.row_format, rows));
    moe::linear(isa_, panels, bias.floats(), storage_.row_format, x.floats(), rows, y,
                work.data(), call.threads());
    call.finish();
  }

 private:
  static Matrix matrix() {
    Matrix matrix{kWeight, kScales, kZeros, "weight", "scales", "zeros"};
    matrix.one_expert = true;
    return matrix;
  }

  std::string node_;
  const moe::Isa* isa_;
  Storage storage_;
  Weight weight_;
  std::shared_ptr<Scratch> scratch_ = Scratch::shared();
};

}  // namespace

const OpDefinition& linear() {
  static const OpDefinition definition{
      "Linear",
      {{"x"},
       {"weight", PortType::weight},
       {"bias", PortType::f32, true},
       {"scales", PortType::f32, true},
       {"zeros", PortType::weight, true}},
      {{"y"}},
      [](const Node& node) -> std::unique_ptr<Kernel> { return std::make_unique<Linear>(node); }};
  return definition;
}

}  // namespace moe_ort
