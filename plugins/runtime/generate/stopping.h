// Strings that end an answer, looked for in text that comes piece by piece.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_STOPPING_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_STOPPING_H_

#include <string>
#include <vector>

namespace moe::runtime {

// Text up to the first of some strings; nothing is let go that may be a string's beginning.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}

  // What is certain to be in front of any of the strings, now that `piece` came.
  std::string push(const std::string& piece);
  // What was held back, once nothing follows.
  std::string finish();
  bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_STOPPING_H_
