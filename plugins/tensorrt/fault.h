// What a user can do wrong, in words, and the way it leaves the library.
//
// TensorRT takes only codes and null from a plugin, and its logger is another class in each of its
// major versions: so words go to stderr, one line each.
#ifndef MOE_EXPORT_PLUGINS_TENSORRT_FAULT_H_
#define MOE_EXPORT_PLUGINS_TENSORRT_FAULT_H_

#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>

namespace moe_trt {

class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline void report(const char* words) noexcept { std::fprintf(stderr, "error: %s\n", words); }

// What body returns; `failed`, with the words reported, where it throws.
template <typename Result, typename Body>
Result guarded(Result failed, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    report(error.what());
  } catch (...) {
    report("moe_export: a plugin failed in a way that it has no words for");
  }
  return failed;
}

constexpr int32_t kOk = 0;
constexpr int32_t kFailed = 1;

// kOk, or kFailed with the words reported.
template <typename Body>
int32_t status_of(const Body& body) noexcept {
  return guarded(kFailed, [&] {
    body();
    return kOk;
  });
}

}  // namespace moe_trt

#endif  // MOE_EXPORT_PLUGINS_TENSORRT_FAULT_H_
