// CachedAttention, against a twin in double precision.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "memory.h"
#include "pool.h"
#include "random.h"
#include "twin.h"

namespace moe::tests {
namespace {

enum class Mask { causal, some, nothing };

// Tensors of a spec, and room for what it makes: the cache lies in front of that room.
struct Case {
  AttentionSpec spec;
  Block<float> query, key, value, present_key, present_value, y;
  Block<uint8_t> mask;

  Case(const AttentionSpec& its_spec, Mask kind, uint64_t seed) : spec(its_spec) {
    Random random(seed);
    const size_t total = spec.past + spec.queries, rows = spec.batch * spec.queries;
    const auto filled = [&](size_t count) {
      Block<float> block(count, 4 * random.below(2));
      for (float& x : block) x = float(random.normal());
      return block;
    };
    query = filled(rows * spec.heads * spec.key_size);
    key = filled(rows * spec.kv_heads * spec.key_size);
    value = filled(rows * spec.kv_heads * spec.value_size);
    present_key = filled(total * spec.batch * spec.kv_heads * spec.key_size);
    present_value = filled(total * spec.batch * spec.kv_heads * spec.value_size);
    y = Block<float>(rows * spec.heads * spec.value_size);
    const size_t masks = spec.mask_per_batch ? spec.batch : 1;
    mask = Block<uint8_t>(masks * spec.queries * total);
    for (size_t i = 0; i < mask.size(); ++i)
      mask[i] = kind == Mask::some     ? random.one_in(5)
                : kind == Mask::causal ? i % total <= spec.past + i / total % spec.queries
                                       : 0;
  }

  void run(const Isa* isa, const Parallel& parallel) {
    const AttentionTensors tensors{query.data(),         key.data(),
                                   value.data(),         mask.data(),
                                   present_key.data(),   present_value.data(),
                                   present_key.data(),   present_value.data(),
                                   y.data()};
    Block<uint8_t> scratch(attention_scratch(isa, spec));
    attention(isa, spec, tensors, scratch.data(), parallel);
  }
};

// One number of y after a run, and the bound of its error: that of moe_export/moe/tolerance.py.
struct Number {
  double exact = 0, bound = 0;
};

Number twin(const Case& c, size_t batch, size_t row, size_t head, size_t column) {
  const AttentionSpec& s = c.spec;
  const size_t total = s.past + s.queries, kv_head = head / (s.heads / s.kv_heads);
  const size_t masks = s.mask_per_batch ? batch : 0;
  const uint8_t* seen = c.mask.data() + (masks * s.queries + row) * total;
  const float* q =
      c.query.data() + ((batch * s.queries + row) * s.heads + head) * s.key_size;
  std::vector<double> score(total), size(total);
  double largest = -INFINITY;
  for (size_t t = 0; t < total; ++t) {
    const float* k = c.present_key.data() + ((t * s.batch + batch) * s.kv_heads + kv_head) * s.key_size;
    for (size_t i = 0; i < s.key_size; ++i) {
      score[t] += double(q[i]) * k[i] * s.scale;
      size[t] += std::abs(double(q[i]) * k[i] * s.scale);
    }
    if (seen[t]) largest = std::max(largest, score[t]);
  }
  double sum = 0, worst = 0;
  for (size_t t = 0; t < total; ++t)
    if (seen[t]) {
      sum += std::exp(score[t] - largest);
      worst = std::max(worst, size[t] * kEps * double(s.key_size + 3));
    }
  Number number;
  for (size_t t = 0; t < total; ++t) {
    if (!seen[t]) continue;
    const double weight = std::exp(score[t] - largest) / sum;
    const double v =
        c.present_value[((t * s.batch + batch) * s.kv_heads + kv_head) * s.value_size + column];
    number.exact += weight * v;
    const double relative =
        std::expm1(2 * worst) + kEps * (2 * (largest - score[t]) + 2 * double(total) + 20);
    number.bound += (weight * relative + std::numeric_limits<float>::min()) * std::abs(v);
  }
  return number;
}

void check_case(const Isa* isa, const AttentionSpec& spec, Mask kind, uint64_t seed) {
  Case c(spec, kind, seed);
  const Block<float> cache = c.present_key;
  c.run(isa, serial());
  const size_t before = spec.past * spec.batch * spec.kv_heads * spec.key_size;
  CHECK(same_bits(c.present_key.data(), cache.data(), before), "the cache moved, seed %zu",
        size_t(seed));
  for (size_t b = 0; b < spec.batch; ++b)
    for (size_t s = 0; s < spec.queries; ++s)
      for (size_t i = 0; i < spec.kv_heads * spec.key_size; ++i) {
        const size_t width = spec.kv_heads * spec.key_size;
        CHECK(c.present_key[before + (s * spec.batch + b) * width + i] ==
                  c.key[(b * spec.queries + s) * width + i],
              "key %zu of row %zu of text %zu, seed %zu", i, s, b, size_t(seed));
      }
  for (size_t i = 0; i < c.y.size(); ++i) {
    const size_t column = i % spec.value_size, head = i / spec.value_size % spec.heads;
    const size_t row = i / spec.value_size / spec.heads % spec.queries;
    const size_t batch = i / spec.value_size / spec.heads / spec.queries;
    const Number expected = twin(c, batch, row, head, column);
    CHECK(std::abs(double(c.y[i]) - expected.exact) <= expected.bound + 1e-30,
          "%zu is %g, expected %g within %g, seed %zu", i, double(c.y[i]), expected.exact,
          expected.bound, size_t(seed));
  }
}

AttentionSpec any_spec(uint64_t seed) {
  Random random(seed);
  AttentionSpec spec{};
  spec.batch = random.between(1, 2);
  spec.queries = random.one_in(2) ? 1 : random.between(1, 40);
  spec.past = random.one_in(3) ? 0 : random.below(700);
  spec.kv_heads = random.between(1, 3);
  spec.heads = spec.kv_heads * random.between(1, 5);
  spec.key_size = random.one_in(2) ? 16 * random.between(1, 4) : random.between(1, 40);
  spec.value_size = random.one_in(2) ? spec.key_size : random.between(1, 40);
  spec.scale = random.one_in(2) ? 0.2f : 1.0f / std::sqrt(float(spec.key_size));
  spec.mask_per_batch = random.one_in(2);
  return spec;
}

LEVEL_TEST(attention_is_within_its_bound_and_leaves_the_cache_where_it_lies) {
  for (uint64_t seed = 0; seed < 40; ++seed)
    check_case(isa, any_spec(seed), seed % 3 ? Mask::causal : Mask::some, seed);
}

LEVEL_TEST(a_row_that_sees_nothing_gives_0) {
  for (const size_t past : {0, 700}) {
    AttentionSpec spec = any_spec(past);
    spec.past = past;
    check_case(isa, spec, Mask::nothing, past);
  }
}

LEVEL_TEST(neither_threads_nor_their_order_change_a_bit_of_attention) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    AttentionSpec spec = any_spec(seed);
    spec.queries = seed % 2 ? 1 : 60;
    spec.past = 1200;
    // Large enough for the pool to be used.
    spec.heads = 4 * spec.kv_heads;
    spec.key_size = spec.value_size = 24;
    Case alone(spec, Mask::causal, seed), shared(spec, Mask::causal, seed);
    alone.run(isa, serial());
    Pool pool(3, Order::shuffled, seed);
    shared.run(isa, pool.parallel());
    CHECK(pool.tasks() > 0, "the pool was not used, seed %zu", size_t(seed));
    CHECK(same_bits(alone.y.data(), shared.y.data(), alone.y.size()), "seed %zu", size_t(seed));
  }
}

LEVEL_TEST(a_cache_that_lies_elsewhere_is_moved) {
  const AttentionSpec spec = any_spec(3);
  Case here(spec, Mask::causal, 3), there(spec, Mask::causal, 3);
  here.run(isa, serial());
  Block<float> keys(there.present_key.size()), values(there.present_value.size());
  const AttentionTensors tensors{there.query.data(),       there.key.data(),
                                 there.value.data(),       there.mask.data(),
                                 there.present_key.data(), there.present_value.data(),
                                 keys.data(),              values.data(),
                                 there.y.data()};
  Block<uint8_t> scratch(attention_scratch(isa, spec));
  attention(isa, spec, tensors, scratch.data(), serial());
  CHECK(same_bits(keys.data(), here.present_key.data(), keys.size()), "keys");
  CHECK(same_bits(values.data(), here.present_value.data(), values.size()), "values");
  CHECK(same_bits(there.y.data(), here.y.data(), here.y.size()), "y");
}

}  // namespace
}  // namespace moe::tests
