#include "generate/stopping.h"

#include <algorithm>
#include <utility>

namespace moe::runtime {

namespace {

// How many of its bytes, not all, `text` ends with.
size_t begun(const std::string& text, const std::string& string) {
  for (size_t n = std::min(text.size(), string.size() - 1); n > 0; --n) {
    if (text.compare(text.size() - n, n, string, 0, n) == 0) return n;
  }
  return 0;
}

}  // namespace

std::string StopStrings::push(const std::string& piece) {
  const std::string text = held_ + piece;
  size_t first = std::string::npos, waits = 0;
  for (const std::string& each : strings_) {
    first = std::min(first, text.find(each));
    waits = std::max(waits, begun(text, each));
  }
  if (first != std::string::npos) {
    found_ = true;
    held_.clear();
    return text.substr(0, first);
  }
  held_ = text.substr(text.size() - waits);
  return text.substr(0, text.size() - waits);
}

std::string StopStrings::finish() { return std::exchange(held_, ""); }

}  // namespace moe::runtime
