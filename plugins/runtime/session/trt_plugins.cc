#include "session/trt_plugins.h"

#include <cstdlib>

#include "core/error.h"
#include "core/files.h"
#include "session/kernels.h"

namespace moe::runtime {

namespace {

constexpr const char* kVariable = "MOE_EXPORT_TRT_LIBRARY";
constexpr const char* kName = "libmoe_export_trt.so";

}  // namespace

std::string plugin_library(const std::string& sha256) {
  const char* variable = std::getenv(kVariable);
  const bool named = variable != nullptr && *variable != '\0';
  const std::string path = named ? variable : own_folder() + "/moe_export/" + kName;
  if (!is_file(path)) {
    throw Error(Kind::environment, "the TensorRT plugins are not here", path,
                std::string("make gpu builds them, or name a library in ") + kVariable);
  }
  const std::string found = resolved(path);
  const std::string digest = digest_of_file(found, 0, size_of_file(found));
  if (digest != sha256) {
    throw Error(Kind::unsafe,
                "the plugin library is " + digest + ", the engine was built with " + sha256, path,
                "build the engine again, or install the moe-export that built it");
  }
  return found;
}

}  // namespace moe::runtime
