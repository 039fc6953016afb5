#include "fuzz.h"

#include <chrono>
#include <cstdio>

#include "check.h"
#include "pool.h"
#include "problem.h"
#include "twin.h"

namespace moe::tests {
namespace {

// Mostly small, at times at the edge of something, seldom large.
size_t any_size(Random* random, size_t most) {
  static const std::vector<size_t> edges = {1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129};
  const size_t size = random->one_in(2)   ? random->of(edges)
                      : random->one_in(8) ? random->between(1, most)
                                          : random->between(1, 80);
  return size < most ? size : most;
}

Problem any_problem(Random* random) {
  static const std::vector<Storage> storages = all_storages();
  Problem p{random->of(storages)};
  p.seed = random->bits() >> 8;
  p.tokens = random->one_in(6) ? random->between(14, 150) : random->below(14);
  p.experts = random->one_in(3) ? 1 : random->between(1, 9);
  p.top_k = random->between(1, 4);
  p.hidden = any_size(random, 1100);
  p.inner = random->one_in(6) ? 0 : any_size(random, 600);
  p.output = any_size(random, 300);
  // Some millions of products: the twin takes a few milliseconds.
  while (p.tokens * p.top_k * p.hidden * (p.inner + 1) > 2000000) p.tokens /= 2;
  p.gated = p.inner && random->one_in(2);
  p.interleaved = random->one_in(2);
  p.activation = Activation(random->below(p.gated ? 7 : 6));
  if (!p.inner) p.activation = Activation::identity;
  p.weight_on_input = random->one_in(3);
  p.up_bias = random->one_in(2);
  p.down_bias = random->one_in(2);
  p.alpha = float(0.5 + random->uniform());
  p.limit = float(0.1 + 2 * random->uniform());
  p.ids = Ids(random->below(3));
  p.hostile = random->one_in(4);
  p.offset = random->one_in(2) ? 4 * random->below(16) : 0;
  return p;
}

}  // namespace

void fuzz_once(const Isa* isa, uint64_t seed) {
  Random random(seed);
  const Problem p = any_problem(&random);
  const Data data(p);
  const Block<float> y = run(isa, p, data, serial());
  const std::string fault = fault_of(experts_twin(p, data), y.data());
  CHECK(fault.empty(), "%s, %s", fault.c_str(), p.words().c_str());
  Pool pool(random.between(1, 3), Order(random.below(3)), seed);
  const Block<float> again = run(isa, p, data, pool.parallel());
  CHECK(same_bits(y.data(), again.data(), y.size()), "threads change bits, %s", p.words().c_str());
  std::vector<size_t> some = random.order(p.tokens);
  some.resize(random.below(p.tokens + 1));
  const Block<float> part = run(isa, p, data.select(p, some), serial());
  for (size_t i = 0; i < some.size(); ++i)
    CHECK(same_bits(&part[i * p.output], &y[some[i] * p.output], p.output),
          "token %zu is another among %zu, %s", some[i], some.size(), p.words().c_str());
}

bool fuzz(const Isa* isa, uint64_t seed, double seconds, uint64_t rounds) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  uint64_t round = 0;
  for (; round < rounds; ++round) {
    if (std::chrono::duration<double>(Clock::now() - begin).count() > seconds) break;
    try {
      fuzz_once(isa, seed + round);
    } catch (const Failure& failure) {
      std::printf("FAILED %s fuzz, again by: fuzz %s --seed %llu --rounds 1\n  %s\n", isa_name(isa),
                  isa_name(isa), static_cast<unsigned long long>(seed + round),
                  failure.text.c_str());
      return false;
    }
  }
  std::printf("%s: %llu rounds from seed %llu on\n", isa_name(isa),
              static_cast<unsigned long long>(round), static_cast<unsigned long long>(seed));
  return true;
}

}  // namespace moe::tests
