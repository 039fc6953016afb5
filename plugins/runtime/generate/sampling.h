// The next token of an answer: the likeliest, or one drawn by a seed.
//
// Everything is computed in float64 and in a fixed order, so that equal logits, options and seed give the
// same token in every runtime of this project; tests/embed/sampling.json holds them to it.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SAMPLING_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SAMPLING_H_

#include <cstddef>
#include <unordered_set>

#include "generate/options.h"

namespace moe::runtime {

// In [0, 1): SplitMix64 as a counter, so that a draw depends on its place alone.
double uniform(uint64_t seed, uint64_t step);

// The token that follows, of `logits` of so many tokens.  `said` are the ids of prompt and answer, `step`
// counts the answer's tokens from 0.  Raises Error(unsupported) where a logit is not a number.
int64_t next_token(const float* logits, size_t vocabulary, const Options& options,
                   const std::unordered_set<int64_t>& said, uint64_t step);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SAMPLING_H_
