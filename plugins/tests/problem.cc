#include "problem.h"

#include <cmath>
#include <limits>

#include "check.h"
#include "twin.h"

namespace moe::tests {
namespace {

const char* name_of(Activation activation) {
  static const char* const names[] = {"silu",  "gelu",     "gelu_tanh",     "relu",
                                      "relu2", "identity", "swiglu_clamped"};
  return names[int(activation)];
}

Block<float> normals(Random* random, size_t count, size_t offset = 0) {
  Block<float> numbers(count, offset);
  for (float& x : numbers) x = float(random->normal());
  return numbers;
}

int32_t any_id(const Problem& p, Random* random) {
  static const std::vector<int32_t> elsewhere = {-1, -2, std::numeric_limits<int32_t>::min(),
                                                 std::numeric_limits<int32_t>::max()};
  if (p.ids == Ids::one) return int32_t(p.experts) - 1;
  if (p.ids == Ids::elsewhere && random->one_in(3))
    return random->one_in(2) ? int32_t(p.experts + random->below(3)) : random->of(elsewhere);
  return int32_t(random->below(p.experts));
}

void make_hostile(const Problem& p, Data* data, Random* random) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> hostile = {std::nanf(""), infinity, -infinity, 0.0f, -0.0f, 1e-39f};
  for (size_t i = 0; i < data->topk_weights.size(); ++i)
    if (random->one_in(7)) data->topk_weights[i] = random->of(hostile);
  // Its cube (relu2, times a value) is still a float32.
  hostile.push_back(1e9f);
  // At most every other token, so that some stay clean.
  for (size_t t = 0; t < p.tokens; t += 2)
    data->x[t * p.hidden + random->below(p.hidden)] = random->of(hostile);
}

}  // namespace

std::string Problem::words() const {
  static const char* const ids_names[] = {"spread", "one", "elsewhere"};
  return storage.words() +
         tests::words(
             ", T=%zu K=%zu E=%zu H=%zu I=%zu Hout=%zu, %s%s%s, weight on %s, biases %d%d, ids %s%s, "
             "offset %zu, seed %llu",
             tokens, top_k, experts, hidden, inner, output, name_of(activation),
             gated ? " gated" : "", interleaved ? " interleaved" : "",
             weight_on_input ? "input" : "output", up_bias, down_bias, ids_names[int(ids)],
             hostile ? ", hostile" : "", offset, static_cast<unsigned long long>(seed));
}

Data::Data(const Problem& p) : tokens(p.tokens) {
  Random random(p.seed);
  x = normals(&random, p.tokens * p.hidden, p.offset);
  topk_ids = Block<int32_t>(p.tokens * p.top_k);
  for (int32_t& id : topk_ids) id = any_id(p, &random);
  topk_weights = normals(&random, p.tokens * p.top_k);
  const size_t up_rows = p.inner * (p.gated ? 2 : 1);
  if (p.inner)
    up = std::make_shared<Weight>(
        p.storage, Shape{p.experts, up_rows, p.hidden, p.gated, p.gated && p.interleaved}, &random);
  down = std::make_shared<Weight>(
      p.storage, Shape{p.experts, p.output, p.inner ? p.inner : p.hidden, false, false}, &random);
  if (p.up_bias && p.inner) up_bias = normals(&random, p.experts * up_rows);
  if (p.down_bias) down_bias = normals(&random, p.experts * p.output);
  if (p.hostile) make_hostile(p, this, &random);
}

Data Data::select(const Problem& p, const std::vector<size_t>& chosen) const {
  Data data = *this;
  data.tokens = chosen.size();
  data.x = Block<float>(chosen.size() * p.hidden, p.offset);
  data.topk_ids = Block<int32_t>(chosen.size() * p.top_k);
  data.topk_weights = Block<float>(chosen.size() * p.top_k);
  for (size_t i = 0; i < chosen.size(); ++i) {
    for (size_t c = 0; c < p.hidden; ++c) data.x[i * p.hidden + c] = x[chosen[i] * p.hidden + c];
    for (size_t k = 0; k < p.top_k; ++k) {
      data.topk_ids[i * p.top_k + k] = topk_ids[chosen[i] * p.top_k + k];
      data.topk_weights[i * p.top_k + k] = topk_weights[chosen[i] * p.top_k + k];
    }
  }
  return data;
}

ExpertsSpec spec_of(const Problem& p, const Data& data) {
  ExpertsSpec spec{};
  spec.activation = p.activation;
  spec.interleaved = p.interleaved;
  spec.weight_on_input = p.weight_on_input;
  spec.alpha = p.alpha;
  spec.limit = p.limit;
  spec.row_format = p.storage.rows;
  spec.up = data.up ? &data.up->panels() : nullptr;
  spec.down = &data.down->panels();
  spec.up_bias = data.up_bias.or_null();
  spec.down_bias = data.down_bias.or_null();
  return spec;
}

Block<float> run(const Isa* isa, const Problem& p, const Data& data, const Parallel& parallel) {
  const ExpertsSpec spec = spec_of(p, data);
  const char* fault = experts_fault(spec);
  CHECK(!fault, "%s: %s", fault, p.words().c_str());
  Block<uint8_t> scratch(experts_scratch(isa, spec, data.tokens, p.top_k));
  Block<float> y(data.tokens * p.output, p.offset);
  experts(isa, spec, data.x.data(), data.topk_ids.data(), data.topk_weights.data(), data.tokens,
          p.top_k, y.data(), scratch.data(), parallel);
  return y;
}

void judge(const Isa* isa, const Problem& problem) {
  const Data data(problem);
  const Block<float> y = run(isa, problem, data, serial());
  const std::string fault = fault_of(experts_twin(problem, data), y.data());
  CHECK(fault.empty(), "%s (y as [T, Hout]; %s)", fault.c_str(), problem.words().c_str());
}

}  // namespace moe::tests
