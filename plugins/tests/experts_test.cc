// Experts, against its twin: every attribute, every storage, every shape that is a special case.
#include <cmath>
#include <limits>

#include "check.h"
#include "pool.h"
#include "problem.h"
#include "twin.h"

namespace moe::tests {
namespace {

const Storage kPlain = {Format::f32, RowFormat::f32, 0, false, false};

LEVEL_TEST(every_activation_layout_bias_and_place_of_the_weight_is_within_its_bound) {
  uint64_t seed = 1;
  for (int activation = 0; activation <= int(Activation::swiglu_clamped); ++activation)
    for (int shape = 0; shape < 3; ++shape)  // plain, gated, gated and interleaved
      for (int biases = 0; biases < 4; ++biases)
        for (const bool weight_on_input : {false, true}) {
          Problem p{kPlain};
          p.activation = Activation(activation);
          p.gated = shape > 0;
          p.interleaved = shape == 2;
          if (p.activation == Activation::swiglu_clamped && !p.gated) continue;
          p.up_bias = biases & 1;
          p.down_bias = biases & 2;
          p.weight_on_input = weight_on_input;
          p.seed = seed++;
          judge(isa, p);
        }
}

LEVEL_TEST(a_layer_without_up_is_within_its_bound) {
  for (const Storage& storage : usual_storages())
    for (const bool weight_on_input : {false, true}) {
      Problem p{storage};
      p.inner = 0;
      p.gated = false;
      p.activation = Activation::identity;
      p.down_bias = p.weight_on_input = weight_on_input;
      judge(isa, p);
    }
}

LEVEL_TEST(every_storage_is_within_its_bound) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages())
    for (int variant = 0; variant < 4; ++variant) {
      Problem p{storage};
      p.seed = seed++;
      p.gated = variant != 1;
      p.interleaved = variant == 2;
      p.weight_on_input = variant == 3;
      p.hidden = variant == 0 ? 160 : variant == 1 ? 64 : variant == 2 ? 33 : 1;
      p.inner = variant == 0 ? 65 : variant == 1 ? 130 : variant == 2 ? 32 : 15;
      p.output = variant == 0 ? 17 : variant == 1 ? 64 : variant == 2 ? 33 : 1;
      p.activation = variant % 2 ? Activation::gelu_tanh : Activation::silu;
      judge(isa, p);
    }
}

LEVEL_TEST(every_odd_size_is_within_its_bound) {
  const std::vector<size_t> sizes = {1, 15, 17, 33, 160, 257};
  uint64_t seed = 1;
  for (const Storage& storage : usual_storages())
    for (size_t i = 0; i < sizes.size(); ++i)
      for (const size_t step : {1, 2}) {
        Problem p{storage};
        p.seed = seed++;
        p.tokens = 3;
        p.hidden = sizes[i];
        p.inner = sizes[(i + step) % sizes.size()];
        p.output = sizes[(i + 2 * step) % sizes.size()];
        p.experts = i % 2 ? 1 : 3;
        p.gated = step == 1;
        judge(isa, p);
      }
}

LEVEL_TEST(every_number_of_rows_of_an_expert_is_within_its_bound) {
  std::vector<size_t> counts = {63, 64, 65, 70, 257, 600};
  for (size_t n = 0; n <= 13; ++n) counts.push_back(n);
  for (const Storage& storage : usual_storages())
    for (const size_t tokens : counts) {
      Problem p{storage};
      p.tokens = tokens;
      p.top_k = 1;
      p.ids = Ids::one;
      p.hidden = tokens > 100 ? 34 : 70;
      p.inner = 33;
      p.output = tokens > 100 ? 19 : 81;
      p.seed = tokens + 1;
      judge(isa, p);
    }
}

// Rows of more than 512 columns are multiplied block by block where many rows share a panel.
LEVEL_TEST(long_rows_are_within_their_bound) {
  for (const Storage& storage : usual_storages())
    for (const size_t columns : {511, 512, 513, 544, 1024, 1100})
      for (const size_t tokens : {1, 3, 14}) {
        Problem p{storage};
        p.tokens = tokens;
        p.top_k = 1;
        p.experts = 2;
        p.ids = Ids::one;
        p.hidden = columns;
        p.inner = 0;
        p.gated = false;
        p.activation = Activation::identity;
        p.output = 34;
        p.seed = columns;
        judge(isa, p);
      }
}

LEVEL_TEST(no_tokens_give_no_rows) {
  Problem p{kPlain};
  p.tokens = 0;
  const Data data(p);
  CHECK(run(isa, p, data, serial()).size() == 0, "rows out of nothing");
}

LEVEL_TEST(nan_and_infinities_are_where_arithmetic_puts_them) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages())
    for (int activation = 0; activation <= int(Activation::swiglu_clamped); ++activation) {
      Problem p{storage};
      p.activation = Activation(activation);
      p.hostile = true;
      p.hidden = 40;
      p.tokens = 6;
      p.weight_on_input = seed % 2;
      p.gated = p.activation == Activation::swiglu_clamped || seed % 3 > 0;
      p.seed = seed++;
      judge(isa, p);
    }
}

LEVEL_TEST(a_nan_stays_within_its_token) {
  for (const Storage& storage : usual_storages()) {
    Problem p{storage};
    p.tokens = 9;
    Data data(p);
    const Block<float> clean = run(isa, p, data, serial());
    data.x[4 * p.hidden + 3] = std::nanf("");
    const Block<float> y = run(isa, p, data, serial());
    for (size_t t = 0; t < p.tokens; ++t)
      if (t != 4)
        CHECK(same_bits(&y[t * p.output], &clean[t * p.output], p.output), "token %zu, %s", t,
              p.words().c_str());
    CHECK(std::isnan(y[4 * p.output]), "the NaN is lost, %s", p.words().c_str());
  }
}

LEVEL_TEST(ids_of_no_expert_contribute_nothing_whatever_token_and_weight_hold) {
  for (const Storage& storage : usual_storages())
    for (const bool weight_on_input : {false, true}) {
      Problem p{storage};
      p.ids = Ids::elsewhere;
      p.tokens = 20;
      p.weight_on_input = weight_on_input;
      judge(isa, p);
      Data data(p);
      for (int32_t& id : data.topk_ids) id = -1;
      for (float& x : data.x) x = std::nanf("");
      for (float& weight : data.topk_weights) weight = std::nanf("");
      const Block<float> y = run(isa, p, data, serial());
      for (size_t i = 0; i < y.size(); ++i)
        CHECK(y[i] == 0, "number %zu is %g, %s", i, y[i], p.words().c_str());
    }
}

LEVEL_TEST(an_expert_that_nobody_chose_is_not_looked_at) {
  for (const Storage& storage : usual_storages()) {
    Problem p{storage};
    p.ids = Ids::one;
    const Data data(p);
    const Block<float> clean = run(isa, p, data, serial());
    for (size_t e = 0; e + 1 < p.experts; ++e) {
      data.up->poison(e);
      data.down->poison(e);
    }
    const Block<float> y = run(isa, p, data, serial());
    CHECK(same_bits(y.data(), clean.data(), y.size()), "%s", p.words().c_str());
  }
}

LEVEL_TEST(memory_that_is_not_aligned_changes_no_bit) {
  for (const Storage& storage : usual_storages()) {
    Problem p{storage};
    p.hidden = 64;  // rows of floats are then read where they lie
    p.tokens = 9;
    const Data aligned(p);
    const Block<float> expected = run(isa, p, aligned, serial());
    p.offset = 4;
    const Data data(p);
    const Block<float> y = run(isa, p, data, serial());
    CHECK(same_bits(y.data(), expected.data(), y.size()), "%s", p.words().c_str());
  }
}

LEVEL_TEST(a_layer_of_one_matrix_is_its_parts_bit_for_bit) {
  for (const Storage& storage : usual_storages()) {
    Problem p{storage};
    p.inner = 0;
    p.gated = false;
    p.activation = Activation::identity;
    p.down_bias = true;
    p.tokens = 11;
    p.ids = Ids::elsewhere;
    const Data data(p);
    const Block<float> expected = run(isa, p, data, serial());

    const size_t assignments = p.tokens * p.top_k;
    Block<int32_t> order(assignments), offsets(p.experts + 1);
    dispatch(data.topk_ids.data(), assignments, p.experts, order.data(), offsets.data());
    Block<float> x_sorted(assignments * p.hidden), y_sorted(assignments * p.output);
    for (size_t s = 0; s < assignments; ++s)
      for (size_t c = 0; c < p.hidden; ++c)
        x_sorted[s * p.hidden + c] = data.x[size_t(order[s]) / p.top_k * p.hidden + c];
    Block<uint8_t> scratch(
        grouped_matmul_scratch(isa, data.down->panels(), p.storage.rows, assignments));
    grouped_matmul(isa, data.down->panels(), data.down_bias.data(), p.storage.rows,
                   x_sorted.data(), offsets.data(), assignments, y_sorted.data(), scratch.data(),
                   serial());
    Block<float> y(p.tokens * p.output);
    Block<uint8_t> places(combine_scratch(p.tokens, p.top_k));
    combine(y_sorted.data(), order.data(), data.topk_weights.data(), p.tokens, p.top_k, p.output,
            y.data(), places.data(), serial());
    CHECK(same_bits(y.data(), expected.data(), y.size()), "%s", p.words().c_str());
  }
}

// The judge itself: what is wrong must not pass.
LEVEL_TEST(rows_that_are_not_rounded_and_sums_that_lack_a_term_exceed_the_bound) {
  for (const Storage& storage : usual_storages()) {
    Problem p{storage};
    p.hidden = 160;
    const Data data(p);
    const Judged judged = experts_twin(p, data);
    Problem wrong = p;
    // Not f32 for int16: that differs by as little as float32's own sums may.
    const bool exact = storage.rows == RowFormat::f32 || storage.rows == RowFormat::int16;
    wrong.storage.rows = exact ? RowFormat::bf16 : RowFormat::f32;
    CHECK(!fault_of(judged, run(isa, wrong, data, serial()).data()).empty(), "%s",
          p.words().c_str());
    Data lacking = data;
    lacking.topk_ids[3] = -1;
    CHECK(!fault_of(judged, run(isa, p, lacking, serial()).data()).empty(), "%s",
          p.words().c_str());
  }
}

TEST(a_layer_that_cannot_be_is_refused) {
  Random random(1);
  const Weight up(kPlain, {2, 6, 5, true, false}, &random);
  const Weight plain_up(kPlain, {2, 6, 5, false, false}, &random);
  const Weight down(kPlain, {2, 4, 3, false, false}, &random);
  const Weight other_down(kPlain, {3, 4, 3, false, false}, &random);
  ExpertsSpec good{};
  good.activation = Activation::swiglu_clamped;
  good.up = &up.panels();
  good.down = &down.panels();
  CHECK(!experts_fault(good), "%s", experts_fault(good));
  const auto refuse = [&](const char* what, auto change) {
    ExpertsSpec spec = good;
    change(&spec);
    CHECK(experts_fault(spec), "%s", what);
  };
  refuse("no down", [](ExpertsSpec* s) { s->down = nullptr; });
  refuse("a gated down", [&](ExpertsSpec* s) { s->down = &up.panels(); });
  refuse("swiglu_clamped without a gate", [&](ExpertsSpec* s) { s->up = &plain_up.panels(); });
  refuse("an activation without up", [](ExpertsSpec* s) { s->up = nullptr; });
  refuse("another number of experts", [&](ExpertsSpec* s) { s->down = &other_down.panels(); });
  refuse("another inner size", [&](ExpertsSpec* s) {
    s->activation = Activation::silu;
    s->up = &plain_up.panels();
  });
  refuse("rows in int8 for floats", [](ExpertsSpec* s) { s->row_format = RowFormat::int8; });
}

}  // namespace
}  // namespace moe::tests
