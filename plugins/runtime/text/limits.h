// How much a tokenizer may make of a text: a file of a few lines can double a text at each step.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_LIMITS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_LIMITS_H_

#include <cstddef>
#include <string>

#include "core/error.h"

namespace moe::runtime {

// Bytes of text, or tokens: far more than any prompt.
constexpr size_t kMaxMade = size_t(1) << 24;

// Raises Error(unsafe) for more than kMaxMade.
inline void check_made(size_t count) {
  if (count <= kMaxMade) return;
  throw Error(Kind::unsafe, "the tokenizer makes more than " + std::to_string(kMaxMade) +
                                " letters or tokens of a text");
}

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_LIMITS_H_
