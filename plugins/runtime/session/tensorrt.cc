#include "session/tensorrt.h"

#include <dlfcn.h>

#include <cstdlib>

#include "core/error.h"
#include "core/files.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

constexpr const char* kVariable = "MOE_EXPORT_TENSORRT";
constexpr Flavour kFlavours[] = {{"trt-rtx", "TensorRT-RTX", "libtensorrt_rtx.so"},
                                 {"trt", "TensorRT", "libnvinfer.so"}};

}  // namespace

const Flavour* flavour_of(const std::string& target) {
  for (const Flavour& each : kFlavours) {
    if (target == each.target) return &each;
  }
  return nullptr;
}

void* tensorrt_library(const Flavour& flavour, const std::string& name) {
  const std::string target = std::string("target ") + flavour.target;
  const std::string hint = "install " + std::string(flavour.title) + ", or name " + name +
                           ", or the folder that holds it, in " + kVariable;
  const char* variable = std::getenv(kVariable);
  const bool named = variable != nullptr && *variable != '\0';
  std::string path = named ? variable : name;
  if (named && is_folder(path)) path += "/" + name;
  // Stays loaded: its threads may still run when everything else ends.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* reason = ::dlerror();
  const std::string why = first_line(reason != nullptr ? reason : "it gives no reason");
  const std::string title = flavour.title;
  if (named) {
    throw Error(Kind::environment, title + " cannot be loaded: " + why,
                std::string(kVariable) + "=" + variable, hint);
  }
  throw Error(Kind::environment, title + " is not installed: " + why, target, hint);
}

}  // namespace moe::runtime
