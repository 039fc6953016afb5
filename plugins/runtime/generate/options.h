// What is asked for: how the tokens of an answer are chosen, and where it ends.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_OPTIONS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace moe::runtime {

struct Options {
  int64_t max_new_tokens = 0;  // 0: the bundle's own number
  double temperature = 0;      // 0: the likeliest token
  int64_t top_k = 0;           // 0: all
  double top_p = 1;
  double repetition_penalty = 1;
  uint64_t seed = 0;
  std::vector<std::string> stop;

  // Raises Error(usage) for what makes no sense.
  void check() const;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_OPTIONS_H_
