// RotaryHeads: heads of rows, normed and turned by their token's position.
#include "custom_op.h"

namespace moe_ort {

namespace {

enum Input : size_t { kX, kCos, kSin, kNorm };

class RotaryHeads : public Kernel {
 public:
  explicit RotaryHeads(const Node& node)
      : node_(node.label()),
        isa_(isa_of(node)),
        heads_(node.size("num_heads", 0, 1)),
        epsilon_(node.number("epsilon", 0.0f)) {}

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor x = call.input(kX), cos = call.input(kCos), sin = call.input(kSin);
    const Tensor norm = call.input(kNorm);
    expect({node_, "x"}, x, f32, {"B", "S", "N*d"});
    const size_t batch = x.dim(0), length = x.dim(1), width = x.dim(2);
    if (width == 0 || width % heads_ != 0) {
      refuse({node_, "x"}, "is " + describe(x) + ", which is not " + std::to_string(heads_) +
                               " heads of one size");
    }
    moe::HeadsSpec spec{batch * length, heads_, width / heads_, 0, epsilon_};
    expect({node_, "cos"}, cos, f32, {{"B", batch}, {"S", length}, "h"});
    spec.half = cos.dim(2);
    expect({node_, "sin"}, sin, f32, {{"B", batch}, {"S", length}, {"h", spec.half}});
    if (2 * spec.half > spec.size) {
      refuse({node_, "cos"}, "is " + describe(cos) + ", whose pairs are more than the " +
                                 std::to_string(spec.size) + " numbers of a head");
    }
    if (norm.present) expect({node_, "norm"}, norm, f32, {{"d", spec.size}});
    float* y = call.floats(0, {batch, length, width});
    moe::rotary_heads(isa_, spec,
                      {x.floats(), cos.floats(), sin.floats(),
                       norm.present ? norm.floats() : nullptr, y},
                      call.threads());
    call.finish();
  }

 private:
  std::string node_;
  const moe::Isa* isa_;
  size_t heads_;
  float epsilon_;
};

}  // namespace

const OpDefinition& rotary_heads() {
  static const OpDefinition definition{
      "RotaryHeads",
      {{"x"}, {"cos"}, {"sin"}, {"norm", PortType::f32, true}},
      {{"y"}},
      [](const Node& node) -> std::unique_ptr<Kernel> {
        return std::make_unique<RotaryHeads>(node);
      }};
  return definition;
}

}  // namespace moe_ort
