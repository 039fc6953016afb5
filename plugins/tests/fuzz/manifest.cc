// moe_export.json: whatever it holds, it is a manifest or there is an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "bundle/manifest.h"
#include "core/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moe::runtime;
  try {
    // Every field is read before the digest, which hardly any of these has.
    Manifest::from_json({reinterpret_cast<const char*>(data), size}, kManifestName);
  } catch (const Error& error) {
    if (error.kind != Kind::unsafe) std::abort();
  }
  return 0;
}
