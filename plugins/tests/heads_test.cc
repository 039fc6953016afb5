// RotaryHeads, against a twin in double precision.
#include <cmath>

#include "check.h"
#include "memory.h"
#include "pool.h"
#include "random.h"
#include "twin.h"

namespace moe::tests {
namespace {

struct Case {
  HeadsSpec spec;
  Block<float> x, cos, sin, norm, y;

  Case(const HeadsSpec& its_spec, bool has_norm, uint64_t seed) : spec(its_spec) {
    Random random(seed);
    const auto filled = [&](size_t count) {
      Block<float> block(count, 4 * random.below(2));
      for (float& each : block) each = float(random.normal());
      return block;
    };
    x = filled(spec.tokens * spec.heads * spec.size);
    cos = filled(spec.tokens * spec.half);
    sin = filled(spec.tokens * spec.half);
    norm = filled(has_norm ? spec.size : 0);
    y = Block<float>(x.size());
  }

  void run(const Isa* isa, const Parallel& parallel) {
    rotary_heads(isa, spec, {x.data(), cos.data(), sin.data(), norm.or_null(), y.data()}, parallel);
  }
};

HeadsSpec any_spec(uint64_t seed) {
  Random random(seed);
  HeadsSpec spec{};
  spec.tokens = random.one_in(2) ? 1 : random.below(40);
  spec.heads = random.between(1, 9);
  spec.size = random.one_in(2) ? 16 * random.between(1, 8) : random.between(1, 90);
  spec.half = random.one_in(2) ? spec.size / 2 : random.below(spec.size / 2 + 1);
  spec.epsilon = random.one_in(2) ? 1e-6f : 0.5f;
  return spec;
}

LEVEL_TEST(heads_are_within_their_bound) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Case c(any_spec(seed), seed % 3 != 0, seed);
    c.run(isa, serial());
    const HeadsSpec& s = c.spec;
    for (size_t row = 0; row < s.tokens * s.heads; ++row) {
      const float* x = c.x.data() + row * s.size;
      const size_t token = row / s.heads;
      double squares = 0;
      for (size_t i = 0; i < s.size; ++i) squares += double(x[i]) * x[i];
      const double factor = 1 / std::sqrt(squares / double(s.size) + double(s.epsilon));
      const auto normed = [&](size_t i) {
        return c.norm.size() ? x[i] * factor * double(c.norm[i]) : double(x[i]);
      };
      for (size_t i = 0; i < s.size; ++i) {
        double expected = normed(i), size = std::abs(expected);
        if (i < 2 * s.half) {
          const size_t place = i % s.half, other = i < s.half ? i + s.half : i - s.half;
          const double cos = c.cos[token * s.half + place], sin = c.sin[token * s.half + place];
          size = std::abs(normed(i) * cos) + std::abs(normed(other) * sin);
          expected = normed(i) * cos + (i < s.half ? -1 : 1) * normed(other) * sin;
        }
        const double bound = size * kEps * (double(s.size) + 10) + 1e-30;
        CHECK(std::abs(double(c.y[row * s.size + i]) - expected) <= bound,
              "%zu of head %zu is %g, expected %g within %g, seed %zu", i, row,
              double(c.y[row * s.size + i]), expected, bound, size_t(seed));
      }
    }
  }
}

LEVEL_TEST(threads_change_no_bit_of_heads) {
  HeadsSpec spec{50, 8, 96, 40, 1e-6f};
  Case alone(spec, true, 1), shared(spec, true, 1);
  alone.run(isa, serial());
  Pool pool(3, Order::shuffled, 1);
  shared.run(isa, pool.parallel());
  CHECK(pool.tasks() > 0, "the pool was not used");
  CHECK(same_bits(alone.y.data(), shared.y.data(), alone.y.size()), "y");
}

}  // namespace
}  // namespace moe::tests
