// An image file: whatever it holds, reading it ends in pixels or in an Error.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "image/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace moe::runtime;
  try {
    const Image image = decode({reinterpret_cast<const char*>(data), size}, "x");
    if (image.rgb.size() != size_t(image.width) * size_t(image.height) * 3) std::abort();
  } catch (const Error& error) {
    if (error.kind == Kind::internal) std::abort();
  }
  return 0;
}
