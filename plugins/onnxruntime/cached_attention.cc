// CachedAttention: rows that follow a cache, which grows by their keys and values where it lies.
#include <cmath>

#include "custom_op.h"
#include "scratch.h"

namespace moe_ort {

namespace {

enum Input : size_t { kQuery, kKey, kValue, kMask, kPastKey, kPastValue };
enum Output : size_t { kY, kPresentKey, kPresentValue };

class CachedAttention : public Kernel {
 public:
  explicit CachedAttention(const Node& node)
      : node_(node.label()), isa_(isa_of(node)), scale_(node.number("scale", 0.0f)) {}

  void compute(Call& call) const override {
    const auto f32 = ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const Tensor query = call.input(kQuery), key = call.input(kKey), value = call.input(kValue);
    const Tensor mask = call.input(kMask);
    const Tensor past_key = call.input(kPastKey), past_value = call.input(kPastValue);
    moe::AttentionSpec spec{};
    expect({node_, "query"}, query, f32, {"B", "S", "N*d"});
    spec.batch = query.dim(0);
    spec.queries = query.dim(1);
    expect({node_, "past_key"}, past_key, f32, {"P", {"B", spec.batch}, "M", "d"});
    spec.past = past_key.dim(0);
    spec.kv_heads = past_key.dim(2);
    spec.key_size = past_key.dim(3);
    expect({node_, "past_value"}, past_value, f32,
           {{"P", spec.past}, {"B", spec.batch}, {"M", spec.kv_heads}, "v"});
    spec.value_size = past_value.dim(3);
    const size_t key_width = spec.kv_heads * spec.key_size;
    const size_t value_width = spec.kv_heads * spec.value_size;
    expect({node_, "key"}, key, f32,
           {{"B", spec.batch}, {"S", spec.queries}, {"M*d", key_width}});
    expect({node_, "value"}, value, f32,
           {{"B", spec.batch}, {"S", spec.queries}, {"M*v", value_width}});
    if (key_width == 0 || query.dim(2) == 0 || query.dim(2) % key_width != 0) {
      refuse({node_, "query"}, "is " + describe(query) + ", whose heads cannot share the " +
                                   std::to_string(spec.kv_heads) + " of past_key " +
                                   describe(past_key));
    }
    spec.heads = query.dim(2) / spec.key_size;
    const size_t keys = spec.past + spec.queries;
    spec.mask_per_batch = mask.rank > 0 && mask.dims[0] != 1;
    expect({node_, "mask"}, mask, ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
           {{"B or 1", spec.mask_per_batch ? spec.batch : 1},
            {"1", 1},
            {"S", spec.queries},
            {"P+S", keys}});
    spec.scale = scale_ != 0.0f ? scale_ : 1.0f / std::sqrt(static_cast<float>(spec.key_size));

    moe::AttentionTensors tensors{};
    tensors.y = call.floats(kY, {spec.batch, spec.queries, spec.heads * spec.value_size});
    tensors.present_key = call.floats(kPresentKey, {keys, spec.batch, spec.kv_heads, spec.key_size});
    tensors.present_value =
        call.floats(kPresentValue, {keys, spec.batch, spec.kv_heads, spec.value_size});
    tensors.query = query.floats();
    tensors.key = key.floats();
    tensors.value = value.floats();
    tensors.mask = static_cast<const uint8_t*>(mask.data);
    tensors.past_key = past_key.floats();
    tensors.past_value = past_value.floats();
    const Scratch::Lease work = scratch_->take(moe::attention_scratch(isa_, spec));
    moe::attention(isa_, spec, tensors, work.data(), call.threads());
    call.finish();
  }

 private:
  std::string node_;
  const moe::Isa* isa_;
  float scale_;
  std::shared_ptr<Scratch> scratch_ = Scratch::shared();
};

}  // namespace

const OpDefinition& cached_attention() {
  static const OpDefinition definition{
      "CachedAttention",
      {{"query"},
       {"key"},
       {"value"},
       {"mask", PortType::boolean},
       {"past_key"},
       {"past_value"}},
      {{"y"}, {"present_key"}, {"present_value"}},
      [](const Node& node) -> std::unique_ptr<Kernel> {
        return std::make_unique<CachedAttention>(node);
      }};
  return definition;
}

}  // namespace moe_ort
