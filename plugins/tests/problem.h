// A call of the Experts op: its attributes, and its inputs made from a seed.
#ifndef MOE_EXPORT_PLUGINS_TESTS_PROBLEM_H_
#define MOE_EXPORT_PLUGINS_TESTS_PROBLEM_H_

#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "moe_kernels.h"
#include "weights.h"

namespace moe::tests {

// Whom the tokens choose.
enum class Ids {
  spread,     // anybody; the same expert perhaps twice
  one,        // all the last expert
  elsewhere,  // one in three ids lies outside [0, E)
};

struct Problem {
  Storage storage;
  size_t tokens = 5, top_k = 2, experts = 4, hidden = 33, inner = 17, output = 15;  // inner 0: no up
  Activation activation = Activation::silu;
  bool gated = true, interleaved = false, weight_on_input = false;
  bool up_bias = false, down_bias = false;
  float alpha = 1.702f, limit = 1.5f;
  Ids ids = Ids::spread;
  bool hostile = false;  // NaN, infinities and huge numbers among tokens and weights
  size_t offset = 0;     // bytes by which x and y miss a multiple of 64
  uint64_t seed = 1;

  std::string words() const;
};

struct Data {
  Data(const Problem& problem);

  Block<float> x, topk_weights, up_bias, down_bias;
  Block<int32_t> topk_ids;
  std::shared_ptr<Weight> up, down;
  size_t tokens;

  // The same weights, and of the tokens those that are named.
  Data select(const Problem& problem, const std::vector<size_t>& chosen) const;
};

ExpertsSpec spec_of(const Problem& problem, const Data& data);

// y [T, Hout], from scratch memory of exactly the size that was asked for.
Block<float> run(const Isa* isa, const Problem& problem, const Data& data, const Parallel& parallel);

// Throws where what the level computes is not within its bound.
void judge(const Isa* isa, const Problem& problem);

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_PROBLEM_H_
