#include "generate/options.h"

#include <cmath>

#include "core/error.h"

namespace moe::runtime {

void Options::check() const {
  const auto want = [](bool holds, const char* name, const char* range, double got) {
    if (holds) return;
    std::string shown = std::to_string(got);
    shown.erase(shown.find_last_not_of('0') + 1);
    if (shown.back() == '.') shown.pop_back();
    throw Error(Kind::usage, std::string(name) + " must be " + range + ", got " + shown);
  };
  want(max_new_tokens >= 0, "max_new_tokens", "1 or more", static_cast<double>(max_new_tokens));
  want(std::isfinite(temperature) && temperature >= 0, "temperature", "0 or more", temperature);
  want(top_k >= 0, "top_k", "0 or more", static_cast<double>(top_k));
  want(top_p > 0 && top_p <= 1, "top_p", "above 0 and at most 1", top_p);
  want(std::isfinite(repetition_penalty) && repetition_penalty > 0, "repetition_penalty", "above 0",
       repetition_penalty);
  for (const std::string& each : stop) {
    if (each.empty()) throw Error(Kind::usage, "stop must be strings that are not empty");
  }
}

}  // namespace moe::runtime
