// Calls of the ops with anything that their contracts allow, until time is up.
#ifndef MOE_EXPORT_PLUGINS_TESTS_FUZZ_H_
#define MOE_EXPORT_PLUGINS_TESTS_FUZZ_H_

#include <cstdint>

#include "moe_kernels.h"

namespace moe::tests {

// One call of experts(), from a seed: within its bound, and the same bits on any threads and for
// any part of the batch.
void fuzz_once(const Isa* isa, uint64_t seed);

// Rounds from `seed` on, each with the next seed, for `seconds` and at most `rounds`.  Says on
// standard output which seeds ran, and which one failed.
bool fuzz(const Isa* isa, uint64_t seed, double seconds, uint64_t rounds);

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_FUZZ_H_
