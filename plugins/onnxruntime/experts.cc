// Experts: each token through its K experts, weighted and summed.
#include <optional>

#include "custom_op.h"
#include "weight.h"

namespace moe_ort {

namespace {

using moe::Activation;

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

class Experts : public Kernel {
 public:
  explicit Experts(const Node& node) : node_(node.label()), isa_(isa_of(node)) {
    spec_.activation = node.choice("activation", kActivations);
    spec_.interleaved = node.choice("gate_layout", kGateLayouts);
    spec_.weight_on_input = node.choice("weight_on", kWeightOn);
    spec_.alpha = node.number("alpha", 1.702f);
    spec_.limit = node.number("limit", 7.0f);
    const bool gated = node.flag("gated", true);
    const Storage storage = read_storage(node);
    spec_.row_format = storage.row_format;
    if (node.has_input(kUp)) {
      if (spec_.activation == Activation::swiglu_clamped && !gated) {
        node.refuse_attribute("activation", "is 'swiglu_clamped', which needs gated = 1");
      }
      up_.emplace(node, storage,
                  Matrix{kUp, kUpScales, kUpZeros, "up", "up_scales", "up_zeros", gated,
                         spec_.interleaved});
    }
    down_.emplace(node, storage,
                  Matrix{kDown, kDownScales, kDownZeros, "down", "down_scales", "down_zeros"});
    if (up_ && up_->constant() && down_->constant()) {
      check_matrices(*up_->constant(), *down_->constant());
    }
  }

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor x = call.input(kX), ids = call.input(kIds), weights = call.input(kWeights);
    expect({node_, "x"}, x, f32, {"T", "H"});
    const size_t tokens = x.dim(0);
    expect({node_, "topk_ids"}, ids, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
           {{"T", tokens}, "K"});
    const size_t top_k = ids.dim(1);
    expect({node_, "topk_weights"}, weights, f32, {{"T", tokens}, {"K", top_k}});

    std::optional<Weight::Loan> up;
    if (up_) up.emplace(up_->borrow(call, *scratch_));
    const Weight::Loan down = down_->borrow(call, *scratch_);
    moe::ExpertsSpec spec = spec_;
    spec.down = &down.panels;
    spec.up = up ? &up->panels : nullptr;
    if (up) check_matrices(up->panels, down.panels);
    check_tokens(spec, x);
    read_biases(call, &spec);
    if (const char* fault = moe::experts_fault(spec)) throw Fault(node_ + ": " + fault);

    float* y = call.floats(0, {tokens, down.panels.rows});
    if (tokens == 0) return;
    const Scratch::Lease work =
        scratch_->take(moe::experts_scratch(isa_, spec, tokens, top_k));
    moe::experts(isa_, spec, x.floats(), ids.ints(), weights.floats(), tokens, top_k, y,
                 work.data(), call.threads());
    call.finish();
  }

 private:
  void check_matrices(const moe::Panels& up, const moe::Panels& down) const {
    const size_t intermediate = up.gated ? up.rows / 2 : up.rows;
    if (down.experts == up.experts && down.columns == intermediate) return;
    refuse({node_, "down"}, "has " + std::to_string(down.experts) + " experts of " +
                                std::to_string(down.columns) + " columns, 'up' has " +
                                std::to_string(up.experts) +
                                " of I=" + std::to_string(intermediate));
  }

  void check_tokens(const moe::ExpertsSpec& spec, const Tensor& x) const {
    const moe::Panels& first = spec.up ? *spec.up : *spec.down;
    if (x.dim(1) == first.columns) return;
    refuse({node_, "x"}, "is " + describe(x) + ", expected [T, H=" +
                             std::to_string(first.columns) + "], the columns of '" +
                             (spec.up ? "up" : "down") + "'");
  }

  void read_biases(const Call& call, moe::ExpertsSpec* spec) const {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor up_bias = call.input(kUpBias), down_bias = call.input(kDownBias);
    if (up_bias.present) {
      if (!spec->up) refuse({node_, "up_bias"}, "is given without 'up'");
      expect({node_, "up_bias"}, up_bias, f32,
             {{"E", spec->up->experts}, {spec->up->gated ? "2I" : "I", spec->up->rows}});
    }
    if (down_bias.present) {
      expect({node_, "down_bias"}, down_bias, f32,
             {{"E", spec->down->experts}, {"Hout", spec->down->rows}});
    }
    spec->up_bias = up_bias.floats();
    spec->down_bias = down_bias.floats();
  }

  std::string node_;
  const moe::Isa* isa_;
  moe::ExpertsSpec spec_{};  // without its weights
  std::optional<Weight> up_, down_;
  std::shared_ptr<Scratch> scratch_ = Scratch::shared();
};

}  // namespace

const OpDefinition& experts() {
  static const OpDefinition definition{
      "Experts",
      {{"x"},
       {"topk_ids", PortType::int32},
       {"topk_weights"},
       {"up", PortType::weight, true},
       {"down", PortType::weight},
       {"up_bias", PortType::f32, true},
       {"down_bias", PortType::f32, true},
       {"up_scales", PortType::f32, true},
       {"up_zeros", PortType::weight, true},
       {"down_scales", PortType::f32, true},
       {"down_zeros", PortType::weight, true}},
      {{"y"}},
      [](const Node& node) -> std::unique_ptr<Kernel> { return std::make_unique<Experts>(node); }};
  return definition;
}

}  // namespace moe_ort
