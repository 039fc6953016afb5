// Experts: each token through its K experts, weighted and summed.
#include "matrices.h"

namespace moe_trt {

namespace {

using moe::Activation;

constexpr Choice<Activation> kActivations[] = {
    {"silu", Activation::silu},           {"gelu", Activation::gelu},
    {"gelu_tanh", Activation::gelu_tanh}, {"relu", Activation::relu},
    {"relu2", Activation::relu2},         {"identity", Activation::identity},
    {"swiglu_clamped", Activation::swiglu_clamped},
};
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

constexpr MatrixPorts kUpPorts{kUp, kUpScales, "up", "up_scales"};
constexpr MatrixPorts kDownPorts{kDown, kDownScales, "down", "down_scales"};

// A node's spec with the matrices that it points to.
struct Filled {
  moe::cuda::ExpertsSpec spec;
  moe::cuda::Matrices up, down;
};

class Experts final : public Op {
 public:
  Experts(const Node& node, const std::vector<bool>& present)
      : node_(node.label()), storage_(read_storage(node)), has_up_(present[kUp]) {
    refuse_zeros(node, present[kUpZeros], "up_zeros");
    refuse_zeros(node, present[kDownZeros], "down_zeros");
    spec_.activation = node.choice("activation", kActivations);
    spec_.gated = node.flag("gated") && has_up_;
    spec_.weight_on_input = node.choice("weight_on", kWeightOn);
    spec_.alpha = node.number("alpha");
    spec_.limit = node.number("limit");
    spec_.row_format = storage_.row_format;
    if (has_up_ && spec_.activation == Activation::swiglu_clamped && !spec_.gated) {
      node.refuse_attribute("activation", "is 'swiglu_clamped', which needs gated = 1");
    }
    if (node.text("gate_layout") != "concatenated" && spec_.gated) {
      node.refuse_attribute("gate_layout", "is '" + node.text("gate_layout") +
                                               "', expected 'concatenated': gates, then values");
    }
  }

  DataType weight_type() const override { return type_of(storage_.format); }

  std::vector<std::vector<Extent>> output_shapes(const Extents& inputs) const override {
    return {{inputs(kX, 0), inputs(kDown, 1)}};
  }

  void check(const Tensors& inputs) const override {
    Filled filled;
    fill(inputs, &filled);
    const moe::cuda::Matrices &down = filled.down, &first = has_up_ ? filled.up : down;
    const Tensor &x = inputs[kX], &ids = inputs[kIds];
    expect({node_, "x"}, x, {"T", {"H", static_cast<int64_t>(first.columns)}});
    expect({node_, "topk_ids"}, ids, {{"T", x.dims.d[0]}, "K"});
    expect({node_, "topk_weights"}, inputs[kWeights],
           {{"T", x.dims.d[0]}, {"K", ids.dims.d[1]}});
    assignments_of({node_, "topk_ids"}, ids);
    check_biases(inputs, filled);
    if (const char* fault = moe::cuda::experts_fault(filled.spec)) throw Fault(node_ + ": " + fault);
  }

  size_t workspace(const Tensors& inputs) const override {
    Filled filled;
    fill(inputs, &filled);
    return moe::cuda::experts_workspace(filled.spec, inputs[kX].dim(0), inputs[kIds].dim(1));
  }

  const char* launch(const moe::cuda::Device* device, const Tensors& inputs, void* const* outputs,
                     void* workspace, moe::cuda::Stream stream) const override {
    Filled filled;
    fill(inputs, &filled);
    return moe::cuda::experts(device, filled.spec, inputs[kX].data, inputs[kIds].ints(),
                              inputs[kWeights].floats(), inputs[kX].dim(0), inputs[kIds].dim(1),
                              outputs[0], workspace, stream);
  }

 private:
  void fill(const Tensors& inputs, Filled* filled) const {
    filled->spec = spec_;
    filled->spec.type = float_type(inputs[kX].type);
    filled->down = read_matrices(node_, inputs, storage_, kDownPorts);
    filled->spec.down = &filled->down;
    filled->spec.up = nullptr;
    if (has_up_) {
      filled->up = read_matrices(node_, inputs, storage_, kUpPorts);
      filled->spec.up = &filled->up;
      check_matrices(filled->up, filled->down);
    }
    filled->spec.up_bias = inputs[kUpBias].floats();
    filled->spec.down_bias = inputs[kDownBias].floats();
  }

  void check_matrices(const moe::cuda::Matrices& up, const moe::cuda::Matrices& down) const {
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

  void check_biases(const Tensors& inputs, const Filled& filled) const {
    const int64_t experts = static_cast<int64_t>(filled.down.experts);
    if (inputs[kUpBias].present) {
      if (!has_up_) refuse({node_, "up_bias"}, "is given without 'up'");
      expect({node_, "up_bias"}, inputs[kUpBias],
             {{"E", experts}, {spec_.gated ? "2I" : "I", static_cast<int64_t>(filled.up.rows)}});
    }
    if (inputs[kDownBias].present) {
      expect({node_, "down_bias"}, inputs[kDownBias],
             {{"E", experts}, {"Hout", static_cast<int64_t>(filled.down.rows)}});
    }
  }

  std::string node_;
  Storage storage_;
  bool has_up_;
  moe::cuda::ExpertsSpec spec_{};  // without type and weights
};

}  // namespace

const OpDefinition& experts() {
  static const OpDefinition definition = [] {
    std::vector<Attribute> attributes{
        Attribute::of("activation", "silu"), Attribute::of("gated", 1),
        Attribute::of("gate_layout", "concatenated"), Attribute::of("weight_on", "output"),
        Attribute::of("alpha", 1.702f), Attribute::of("limit", 7.0f)};
    for (Attribute& attribute : storage_attributes()) attributes.push_back(std::move(attribute));
    return OpDefinition{
        "Experts",
        {{"x", PortType::row, 2},
         {"topk_ids", PortType::int32, 2},
         {"topk_weights", PortType::f32, 2},
         {"up", PortType::weight, 3, true},
         {"down", PortType::weight, 3},
         {"up_bias", PortType::f32, 2, true},
         {"down_bias", PortType::f32, 2, true},
         {"up_scales", PortType::scale, 3, true},
         {"up_zeros", PortType::weight, 3, true},
         {"down_scales", PortType::scale, 3, true},
         {"down_zeros", PortType::weight, 3, true}},
        {{"y", PortType::row, 2}},
        std::move(attributes),
        [](const Node& node, const std::vector<bool>& present) -> std::unique_ptr<const Op> {
          return std::make_unique<Experts>(node, present);
        }};
  }();
  return definition;
}

}  // namespace moe_trt
