// GroupedMatMul: each expert's matrix on the rows that are its own.
#include "custom_op.h"
#include "weight.h"

namespace moe_ort {

namespace {

enum Input : size_t { kX, kOffsets, kWeights, kBias, kScales, kZeros };

class GroupedMatMul : public Kernel {
 public:
  explicit GroupedMatMul(const Node& node)
      : node_(node.label()),
        isa_(isa_of(node)),
        storage_(read_storage(node)),
        weights_(node, storage_,
                 Matrix{kWeights, kScales, kZeros, "weights", "scales", "zeros"}) {}

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Weight::Loan weights = weights_.borrow(call, *scratch_);
    const moe::Panels& panels = weights.panels;
    const Tensor x = call.input(kX), offsets = call.input(kOffsets), bias = call.input(kBias);
    expect({node_, "x_sorted"}, x, f32, {"S", {"H", panels.columns}});
    expect({node_, "expert_offsets"}, offsets, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
           {{"E+1", panels.experts + 1}});
    if (bias.present) {
      expect({node_, "bias"}, bias, f32, {{"E", panels.experts}, {"N", panels.rows}});
    }

    const size_t rows = x.dim(0);
    float* y = call.floats(0, {rows, panels.rows});
    if (rows == 0) return;
    const Scratch::Lease work = scratch_->take(
        moe::grouped_matmul_scratch(isa_, panels, storage_.row_format, rows));
    moe::grouped_matmul(isa_, panels, bias.floats(), storage_.row_format, x.floats(),
                        offsets.ints(), rows, y, work.data(), call.threads());
    call.finish();
  }

 private:
  std::string node_;
  const moe::Isa* isa_;
  Storage storage_;
  Weight weights_;
  std::shared_ptr<Scratch> scratch_ = Scratch::shared();
};

}  // namespace

const OpDefinition& grouped_matmul() {
  static const OpDefinition definition{
      "GroupedMatMul",
      {{"x_sorted"},
       {"expert_offsets", PortType::int32},
       {"weights", PortType::weight},
       {"bias", PortType::f32, true},
       {"scales", PortType::f32, true},
       {"zeros", PortType::weight, true}},
      {{"y_sorted"}},
      [](const Node& node) -> std::unique_ptr<Kernel> {
        return std::make_unique<GroupedMatMul>(node);
      }};
  return definition;
}

}  // namespace moe_ort
