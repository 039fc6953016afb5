// A graph's references to data outside itself: found, or the bytes are refused.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "bundle/wire.h"
#include "core/words.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moe::runtime;
  try {
    for (const ExternalData& each :
         external_data({reinterpret_cast<const char*>(data), size})) {
      // What the checks behind this one rely on.
      if (each.offset + each.length < each.offset || !all_utf8(each.location)) std::abort();
    }
  } catch (const WireFault&) {
  }
  return 0;
}
