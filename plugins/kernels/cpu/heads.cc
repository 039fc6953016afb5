// RotaryHeads: heads that are normed and turned by their token's position (docs/ops.md).
#include <algorithm>

#include "isa.h"
#include "tasks.h"

namespace moe {

void rotary_heads(const Isa* isa, const HeadsSpec& spec, const HeadsTensors& tensors,
                  const Parallel& parallel) {
  constexpr size_t kTokensPerTask = 8;
  const size_t width = spec.heads * spec.size;
  const size_t tasks = (spec.tokens + kTokensPerTask - 1) / kTokensPerTask;
  // A number costs about as much as eight products.
  for_each(parallel, tasks, kTokensPerTask * width * 8, [&](size_t task) {
    const size_t end = std::min(spec.tokens, (task + 1) * kTokensPerTask);
    for (size_t t = task * kTokensPerTask; t < end; ++t)
      isa->turn_heads({tensors.x + t * width, tensors.cos + t * spec.half,
                       tensors.sin + t * spec.half, tensors.norm, spec.epsilon, spec.heads, spec.size,
                       spec.half, tensors.y + t * width});
  });
}

}  // namespace moe
