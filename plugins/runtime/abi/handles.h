// What the names of the C interface stand for, and how its functions are kept from throwing.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_ABI_HANDLES_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_ABI_HANDLES_H_

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "moe_export/moe_export.h"
#include "session/session.h"

struct moe_export_error {
  moe::runtime::Error error;
};

struct moe_export_bundle {
  std::shared_ptr<const moe::runtime::Bundle> bundle;
};

namespace moe::runtime::abi {

void release(moe_export_error* error);

// The error that is being handled.
moe_export_error* caught() noexcept;

// Runs `work`; what it throws is returned.
template <typename Work>
moe_export_error* guarded(Work&& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (...) {
    return caught();
  }
}

// Raises Error(usage) for a pointer that is null and must not be.
void require(const void* given, const char* what);

inline std::string text_or(const char* text, const char* otherwise) {
  return text != nullptr ? text : otherwise;
}

// The caller's struct as this version knows it: what the caller's has not is 0.
template <typename Struct>
Struct known(const Struct* given, const char* what) {
  Struct made;
  std::memset(static_cast<void*>(&made), 0, sizeof made);
  if (given == nullptr) return made;
  if (given->size < sizeof(size_t)) {
    throw Error(Kind::usage, std::string(what) + " does not begin with its size", "",
                "fill it as in `= {.size = sizeof options}`");
  }
  std::memcpy(static_cast<void*>(&made), given, std::min(given->size, sizeof made));
  return made;
}

}  // namespace moe::runtime::abi

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_ABI_HANDLES_H_
