// A token's bits depend neither on threads nor on the other tokens of the batch.
#include "check.h"
#include "pool.h"
#include "problem.h"

namespace moe::tests {
namespace {

// Large enough for the pool to be used: small work stays on the calling thread.
Problem problem_of(const Storage& storage, uint64_t seed) {
  Problem p{storage};
  p.tokens = 23;
  p.experts = 3;
  p.hidden = 97;
  p.inner = 70;
  p.output = 130;
  p.up_bias = p.down_bias = true;
  p.interleaved = seed % 2;
  p.weight_on_input = seed % 3 == 0;
  p.ids = seed % 4 == 0 ? Ids::elsewhere : Ids::spread;
  p.seed = seed;
  return p;
}

LEVEL_TEST(neither_threads_nor_their_order_change_a_bit) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages()) {
    const Problem p = problem_of(storage, seed++);
    const Data data(p);
    const Block<float> expected = run(isa, p, data, serial());
    for (size_t threads = 1; threads <= 3; ++threads)
      for (const Order order : {Order::reversed, Order::shuffled}) {
        Pool pool(threads, order, seed);
        const Block<float> y = run(isa, p, data, pool.parallel());
        CHECK(pool.tasks() > 0, "the pool was not used, %s", p.words().c_str());
        CHECK(same_bits(y.data(), expected.data(), y.size()), "%zu threads, %s", threads,
              p.words().c_str());
      }
  }
}

LEVEL_TEST(neither_threads_nor_their_order_change_a_bit_of_an_expert_split_among_tasks) {
  for (const Storage& storage : usual_storages()) {
    Problem p = problem_of(storage, 5);
    p.tokens = 600;
    p.top_k = 1;
    p.ids = Ids::one;
    const Data data(p);
    const Block<float> expected = run(isa, p, data, serial());
    Pool pool(3, Order::shuffled);
    const Block<float> y = run(isa, p, data, pool.parallel());
    CHECK(same_bits(y.data(), expected.data(), y.size()), "%s", p.words().c_str());
  }
}

LEVEL_TEST(a_permuted_batch_gives_permuted_bits) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages()) {
    const Problem p = problem_of(storage, seed++);
    const Data data(p);
    const Block<float> expected = run(isa, p, data, serial());
    const std::vector<size_t> order = Random(seed).order(p.tokens);
    const Block<float> y = run(isa, p, data.select(p, order), serial());
    for (size_t i = 0; i < order.size(); ++i)
      CHECK(same_bits(&y[i * p.output], &expected[order[i] * p.output], p.output),
            "token %zu at place %zu, %s", order[i], i, p.words().c_str());
  }
}

LEVEL_TEST(a_token_alone_or_in_part_of_the_batch_has_the_same_bits) {
  uint64_t seed = 1;
  for (const Storage& storage : all_storages()) {
    const Problem p = problem_of(storage, seed++);
    const Data data(p);
    const Block<float> expected = run(isa, p, data, serial());
    for (const size_t size : {1, 2, 3, 5, 8, 13}) {
      std::vector<size_t> some = Random(seed + size).order(p.tokens);
      some.resize(size);
      const Block<float> y = run(isa, p, data.select(p, some), serial());
      for (size_t i = 0; i < size; ++i)
        CHECK(same_bits(&y[i * p.output], &expected[some[i] * p.output], p.output),
              "token %zu among %zu, %s", some[i], size, p.words().c_str());
    }
  }
}

// 512 columns and more are where blocks of columns begin, which a lone row does without.
LEVEL_TEST(a_long_row_alone_has_the_bits_it_has_in_a_batch) {
  for (const Storage& storage : all_storages()) {
    Problem p = problem_of(storage, 7);
    p.hidden = 1100;
    p.inner = 545;
    p.output = 33;
    const Data data(p);
    const Block<float> expected = run(isa, p, data, serial());
    for (const size_t token : {0, 11, 22}) {
      const Block<float> y = run(isa, p, data.select(p, {token}), serial());
      CHECK(same_bits(y.data(), &expected[token * p.output], p.output), "token %zu, %s", token,
            p.words().c_str());
    }
  }
}

LEVEL_TEST(padding_tokens_change_no_bit) {
  uint64_t seed = 1;
  for (const Storage& storage : usual_storages()) {
    const Problem p = problem_of(storage, seed++);
    const Data data(p);
    const Block<float> expected = run(isa, p, data, serial());
    std::vector<size_t> padded(p.tokens);
    for (size_t t = 0; t < p.tokens; ++t) padded[t] = t;
    padded.resize(p.tokens + 40, 0);
    Data more = data.select(p, padded);
    for (size_t i = p.tokens * p.hidden; i < more.x.size(); ++i) more.x[i] = 0;
    const Block<float> y = run(isa, p, more, serial());
    CHECK(same_bits(y.data(), expected.data(), expected.size()), "%s", p.words().c_str());
  }
}

}  // namespace
}  // namespace moe::tests
