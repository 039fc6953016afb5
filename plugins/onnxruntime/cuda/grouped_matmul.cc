// GroupedMatMul: each expert's matrix on the rows that are its own.
#include "matrices.h"

namespace moe_ort {

namespace {

enum Input : size_t { kX, kOffsets, kWeights, kBias, kScales, kZeros };

constexpr MatrixPorts kPorts{kWeights, kScales, kZeros, "weights", "scales", "zeros"};

class GroupedMatMul final : public Kernel {
 public:
  explicit GroupedMatMul(const Node& node) : node_(node.label()), storage_(read_storage(node)) {
    refuse_zeros(node, kPorts);
  }

  void compute(Call& call) const override {
    const moe::cuda::Matrices weights = read_matrices(call, node_, storage_, kPorts);
    const Tensor x = call.input(kX), offsets = call.input(kOffsets), bias = call.input(kBias);
    expect({node_, "x_sorted"}, x, x.type, {"S", {"H", weights.columns}});
    expect({node_, "expert_offsets"}, offsets, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
           {{"E+1", weights.experts + 1}});
    if (bias.present) {
      expect({node_, "bias"}, bias, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
             {{"E", weights.experts}, {"N", weights.rows}});
    }
    const size_t rows = x.dim(0);
    if (rows > INT32_MAX) refuse({node_, "x_sorted"}, "has more rows than an int32 can number");
    require_launched(node_, moe::cuda::grouped_matmul_fault(weights, storage_.row_format));

    const Call::Output y = call.output(0, {rows, weights.rows});
    if (rows == 0) return;
    const moe::cuda::Float type = float_type(x);
    const moe::cuda::Device* device = device_of(node_);
    const moe::cuda::Stream stream = stream_of(call);
    const Workspace work(
        call, y, stream,
        moe::cuda::grouped_matmul_workspace(weights, storage_.row_format, type, rows));
    require_launched(node_, moe::cuda::grouped_matmul(
                                device, weights, bias.floats(), storage_.row_format, type, x.data,
                                offsets.ints(), rows, y.data, work.data(), stream));
  }

 private:
  std::string node_;
  Storage storage_;
};

}  // namespace

const OpDefinition& grouped_matmul() {
  static const OpDefinition definition{
      "GroupedMatMul",
      {{"x_sorted", PortType::row},
       {"expert_offsets", PortType::int32},
       {"weights", PortType::weight},
       {"bias", PortType::f32, true},
       {"scales", PortType::weight, true},
       {"zeros", PortType::weight, true}},
      {{"y_sorted", PortType::row}},
      [](const Node& node) -> std::unique_ptr<Kernel> {
        return std::make_unique<GroupedMatMul>(node);
      }};
  return definition;
}

}  // namespace moe_ort
