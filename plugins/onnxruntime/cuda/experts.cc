// Experts: each token through its K experts, weighted and summed.
#include "matrices.h"

namespace moe_ort {

namespace {

using moe::Activation;
using moe::cuda::Matrices;

constexpr Choice<Activation> kActivations[] = {
    {"silu", Activation::silu},           {"gelu", Activation::gelu},
    {"gelu_tanh", Activation::gelu_tanh}, {"relu", Activation::relu},
    {"relu2", Activation::relu2},         {"identity", Activation::identity},
    {"swiglu_clamped", Activation::swiglu_clamped},
};
constexpr Choice<bool> kGateLayouts[] = {{"concatenated", false}, {"interleaved", true}};
constexpr Choice<bool> kWeightOn[] = {{"output", false}, {"input", true}};

enum Input : size_t {
  kX,
  kIds,
  kWeights,
  kUp,
  kDown,
  kUpBias,
  kDownBias,
  kUpScales,
  kUpZeros,
  kDownScales,
  kDownZeros
};

constexpr MatrixPorts kUpPorts{kUp, kUpScales, kUpZeros, "up", "up_scales", "up_zeros"};
constexpr MatrixPorts kDownPorts{kDown, kDownScales, kDownZeros, "down", "down_scales",
                                 "down_zeros"};

class Experts final : public Kernel {
 public:
  explicit Experts(const Node& node)
      : node_(node.label()), storage_(read_storage(node)), has_up_(node.has_input(kUp)) {
    refuse_zeros(node, kUpPorts);
    refuse_zeros(node, kDownPorts);
    spec_.activation = node.choice("activation", kActivations);
    spec_.gated = node.flag("gated", true) && has_up_;
    spec_.weight_on_input = node.choice("weight_on", kWeightOn);
    spec_.alpha = node.number("alpha", 1.702f);
    spec_.limit = node.number("limit", 7.0f);
    spec_.row_format = storage_.row_format;
    if (has_up_ && spec_.activation == Activation::swiglu_clamped && !spec_.gated) {
      node.refuse_attribute("activation", "is 'swiglu_clamped', which needs gated = 1");
    }
    if (node.choice("gate_layout", kGateLayouts) && spec_.gated) {
      node.refuse_attribute("gate_layout",
                            "is 'interleaved', expected 'concatenated': gates, then values");
    }
  }

  void compute(Call& call) const override {
    const Tensor x = call.input(kX), ids = call.input(kIds), weights = call.input(kWeights);
    Matrices up{}, down{};
    const moe::cuda::ExpertsSpec spec = fill(call, x, &up, &down);
    const size_t tokens = check_tokens(has_up_ ? up : down, x, ids, weights), top_k = ids.dim(1);
    require_launched(node_, moe::cuda::experts_fault(spec));

    const Call::Output y = call.output(0, {tokens, down.rows});
    if (tokens == 0) return;
    const moe::cuda::Device* device = device_of(node_);
    const moe::cuda::Stream stream = stream_of(call);
    const Workspace work(call, y, stream, moe::cuda::experts_workspace(spec, tokens, top_k));
    require_launched(node_, moe::cuda::experts(device, spec, x.data, ids.ints(), weights.floats(),
                                               tokens, top_k, y.data, work.data(), stream));
  }

 private:
  moe::cuda::ExpertsSpec fill(const Call& call, const Tensor& x, Matrices* up, Matrices* down) const {
    moe::cuda::ExpertsSpec spec = spec_;
    spec.type = float_type(x);
    *down = read_matrices(call, node_, storage_, kDownPorts);
    spec.down = down;
    if (has_up_) {
      *up = read_matrices(call, node_, storage_, kUpPorts);
      spec.up = up;
      check_matrices(*up, *down);
    }
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor up_bias = call.input(kUpBias), down_bias = call.input(kDownBias);
    if (up_bias.present) {
      if (!has_up_) refuse({node_, "up_bias"}, "is given without 'up'");
      expect({node_, "up_bias"}, up_bias, f32,
             {{"E", up->experts}, {spec_.gated ? "2I" : "I", up->rows}});
    }
    if (down_bias.present) {
      expect({node_, "down_bias"}, down_bias, f32, {{"E", down->experts}, {"Hout", down->rows}});
    }
    spec.up_bias = up_bias.floats();
    spec.down_bias = down_bias.floats();
    return spec;
  }

  void check_matrices(const Matrices& up, const Matrices& down) const {
    if (spec_.gated && up.rows % 2) {
      refuse({node_, "up"}, "has " + std::to_string(up.rows) + " rows, which are no pairs");
    }
    const size_t intermediate = spec_.gated ? up.rows / 2 : up.rows;
    if (down.experts == up.experts && down.columns == intermediate) return;
    refuse({node_, "down"}, "has " + std::to_string(down.experts) + " experts of " +
                                std::to_string(down.columns) + " columns, 'up' has " +
                                std::to_string(up.experts) +
                                " of I=" + std::to_string(intermediate));
  }

  size_t check_tokens(const Matrices& first, const Tensor& x, const Tensor& ids,
                      const Tensor& weights) const {
    expect({node_, "x"}, x, x.type, {"T", {"H", first.columns}});
    const size_t tokens = x.dim(0);
    expect({node_, "topk_ids"}, ids, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
           {{"T", tokens}, "K"});
    expect({node_, "topk_weights"}, weights, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
           {{"T", tokens}, {"K", ids.dim(1)}});
    assignments_of({node_, "topk_ids"}, ids);
    return tokens;
  }

  std::string node_;
  Storage storage_;
  bool has_up_;
  moe::cuda::ExpertsSpec spec_{};  // without type and weights
};

}  // namespace

const OpDefinition& experts() {
  static const OpDefinition definition{
      "Experts",
      {{"x", PortType::row},
       {"topk_ids", PortType::int32},
       {"topk_weights"},
       {"up", PortType::weight, true},
       {"down", PortType::weight},
       {"up_bias", PortType::f32, true},
       {"down_bias", PortType::f32, true},
       {"up_scales", PortType::weight, true},
       {"up_zeros", PortType::weight, true},
       {"down_scales", PortType::weight, true},
       {"down_zeros", PortType::weight, true}},
      {{"y", PortType::row}},
      [](const Node& node) -> std::unique_ptr<Kernel> { return std::make_unique<Experts>(node); }};
  return definition;
}

}  // namespace moe_ort
