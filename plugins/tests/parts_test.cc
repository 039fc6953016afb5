// Dispatch, GroupedMatMul, Combine and Linear, against their twins.
#include <algorithm>
#include <limits>

#include "check.h"
#include "problem.h"
#include "twin.h"

namespace moe::tests {
namespace {

TEST(dispatch_is_a_stable_sort_that_loses_no_assignment) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const size_t experts = random.between(1, 9), count = random.below(40);
    Block<int32_t> ids(count), order(count), offsets(experts + 1);
    for (int32_t& id : ids) id = int32_t(random.below(experts + 4)) - 2;
    if (count) ids[0] = random.one_in(2) ? std::numeric_limits<int32_t>::min() : 0x7fffffff;
    dispatch(ids.data(), count, experts, order.data(), offsets.data());
    std::vector<int32_t> expected;
    for (size_t e = 0; e <= experts; ++e) {
      CHECK(size_t(offsets[e]) == expected.size(), "expert %zu, seed %zu", e, size_t(seed));
      for (size_t s = 0; s < count; ++s) {
        const bool is_here = ids[s] >= 0 && size_t(ids[s]) < experts;
        if (e < experts ? ids[s] == int32_t(e) : !is_here) expected.push_back(int32_t(s));
      }
    }
    for (size_t s = 0; s < count; ++s)
      CHECK(order[s] == expected[s], "place %zu, seed %zu", s, size_t(seed));
  }
}

TEST(combine_is_within_its_bound_and_leaves_out_what_is_not_in_order) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Random random(seed);
    const size_t tokens = random.below(9), top_k = random.between(1, 4);
    const size_t columns = random.between(1, 40), count = tokens * top_k;
    std::vector<int32_t> order;
    for (const size_t s : random.order(count)) order.push_back(int32_t(s));
    if (count && seed % 3 == 0) order[random.below(count)] = -1;
    if (count && seed % 3 == 1) order[random.below(count)] = int32_t(count);
    Block<float> rows(count * columns), weights(count), y(tokens * columns);
    for (float& x : rows) x = float(random.normal());
    for (float& x : weights) x = float(random.normal());
    Block<uint8_t> scratch(combine_scratch(tokens, top_k));
    combine(rows.data(), Block<int32_t>(order).data(), weights.data(), tokens, top_k, columns,
            y.data(), scratch.data(), serial());
    const std::string fault =
        fault_of(combine_twin(rows.data(), order, weights.data(), tokens, top_k, columns), y.data());
    CHECK(fault.empty(), "%s, seed %zu", fault.c_str(), size_t(seed));
  }
}

// y [S, N] of x [S, H], where expert_of [S] is -1 for rows of no expert.
Judged grouped_twin(const Weight& weight, RowFormat format, const Block<float>& x,
                    const Block<float>& bias, const std::vector<int>& expert_of) {
  const Shape& shape = weight.shape();
  Judged y(expert_of.size() * shape.rows);
  for (size_t s = 0; s < expert_of.size(); ++s) {
    if (expert_of[s] < 0) continue;
    Judged row(shape.columns);
    for (size_t c = 0; c < shape.columns; ++c) row.exact[c] = x[s * shape.columns + c];
    const size_t expert = size_t(expert_of[s]);
    row = multiplied(rounded(row, format), weight, expert,
                     bias.size() ? &bias[expert * shape.rows] : nullptr);
    std::copy(row.exact.begin(), row.exact.end(), &y.exact[s * shape.rows]);
    std::copy(row.bound.begin(), row.bound.end(), &y.bound[s * shape.rows]);
  }
  return y;
}

void check_grouped(const Isa* isa, const Storage& storage, const std::vector<int32_t>& offsets,
                   const std::vector<int>& expert_of, uint64_t seed) {
  Random random(seed);
  const Shape shape = {offsets.size() - 1, random.between(1, 70), random.between(1, 70), false,
                       false};
  const Weight weight(storage, shape, &random);
  Block<float> x(expert_of.size() * shape.columns, 4 * random.below(2));
  Block<float> bias(random.one_in(2) ? shape.experts * shape.rows : 0);
  for (float& number : x) number = float(random.normal());
  for (float& number : bias) number = float(random.normal());
  Block<float> y(expert_of.size() * shape.rows);
  Block<uint8_t> scratch(
      grouped_matmul_scratch(isa, weight.panels(), storage.rows, expert_of.size()));
  grouped_matmul(isa, weight.panels(), bias.or_null(), storage.rows, x.data(),
                 Block<int32_t>(offsets).data(), expert_of.size(), y.data(), scratch.data(),
                 serial());
  const std::string fault =
      fault_of(grouped_twin(weight, storage.rows, x, bias, expert_of), y.data());
  CHECK(fault.empty(), "%s, %s, seed %zu", fault.c_str(), storage.words().c_str(), size_t(seed));
}

LEVEL_TEST(grouped_matmul_is_within_its_bound) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages()) {
    // Rows 0 and 1 before the first expert, 9 behind the last, nobody at expert 1.
    check_grouped(isa, storage, {2, 5, 5, 9}, {-1, -1, 0, 0, 0, 2, 2, 2, 2, -1}, seed++);
    check_grouped(isa, storage, {0, 0}, {}, seed++);
  }
}

LEVEL_TEST(offsets_are_clipped_and_never_run_backwards) {
  uint64_t seed = 1;
  const int32_t least = std::numeric_limits<int32_t>::min();
  const int32_t most = std::numeric_limits<int32_t>::max();
  for (const Storage& storage : usual_storages()) {
    check_grouped(isa, storage, {0, 3, 1, 4}, {0, 0, 0, 2}, seed++);
    check_grouped(isa, storage, {least, -1, 2, most}, {1, 1, 2, 2}, seed++);
    check_grouped(isa, storage, {most, 0, 0, 0}, {-1, -1}, seed++);
    check_grouped(isa, storage, {least, least, least}, {-1, -1, -1}, seed++);
  }
}

// `rows` rows times one matrix of a shape, with a bias or without.
void check_linear(const Isa* isa, const Storage& storage, const Shape& shape, size_t rows,
                  Random* random) {
  const Weight weight(storage, shape, random);
  Block<float> x(rows * shape.columns), bias(random->one_in(2) ? shape.rows : 0);
  for (float& number : x) number = float(random->normal());
  for (float& number : bias) number = float(random->normal());
  Block<float> y(rows * shape.rows);
  Block<uint8_t> scratch(linear_scratch(isa, weight.panels(), storage.rows, rows));
  linear(isa, weight.panels(), bias.or_null(), storage.rows, x.data(), rows, y.data(),
         scratch.data(), serial());
  const std::vector<int> expert_of(rows, 0);
  const std::string fault =
      fault_of(grouped_twin(weight, storage.rows, x, bias, expert_of), y.data());
  CHECK(fault.empty(), "%s, %s", fault.c_str(), storage.words().c_str());
}

LEVEL_TEST(linear_is_within_its_bound) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages())
    for (const size_t rows : {0, 1, 7}) {
      Random random(seed++);
      check_linear(isa, storage, {1, random.between(1, 90), random.between(1, 90), false, false},
                   rows, &random);
    }
}

// A task of a single row takes several tiles, which ask for each other's weights.
LEVEL_TEST(a_row_alone_meets_many_panels) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages()) {
    Random random(seed++);
    check_linear(isa, storage, {1, 2100 + random.below(40), 300, false, false}, 1, &random);
  }
}

}  // namespace
}  // namespace moe::tests
