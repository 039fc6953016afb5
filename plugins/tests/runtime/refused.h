// What a call refuses.
#ifndef MOE_EXPORT_PLUGINS_TESTS_RUNTIME_REFUSED_H_
#define MOE_EXPORT_PLUGINS_TESTS_RUNTIME_REFUSED_H_

#include <string>

#include "core/error.h"

namespace moe::tests {

// The error's message, or "" where there was none.
template <typename Work>
std::string refused(Work&& work) {
  try {
    work();
    return "";
  } catch (const runtime::Error& error) {
    return error.what();
  }
}

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_RUNTIME_REFUSED_H_
