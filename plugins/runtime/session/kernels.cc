#include "session/kernels.h"

#include <dlfcn.h>

#include <cstdlib>

#include "core/error.h"
#include "core/files.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

// What moe_export_ort_abi() answers, and the version of docs/panels.md.
constexpr int64_t kAbi = 1, kPanels = 1;

constexpr const char* kVariable = "MOE_EXPORT_ORT_LIBRARY";
constexpr const char* kName = "libmoe_export_ort.so";
constexpr const char* kHint = "or export with --target standard to run without native kernels";

std::string candidate(const std::string& wanted) {
  const char* variable = std::getenv(kVariable);
  const bool by_variable = wanted.empty() && variable != nullptr && *variable != '\0';
  const std::string named = by_variable ? variable : wanted;
  if (!named.empty()) {
    if (is_file(named)) return resolved(named);
    throw Error(Kind::environment, "the library of native kernels is not there",
                by_variable ? std::string(kVariable) + "=" + named : named,
                std::string("name ") + kName + ", " + kHint);
  }
  const std::string folder = own_folder();
  for (const std::string& path : {folder + "/" + kName, folder + "/moe_export/" + kName}) {
    if (is_file(path)) return path;
  }
  throw Error(Kind::environment, "this installation has no native kernels for ONNX Runtime",
              folder + "/moe_export/" + kName,
              std::string("name ") + kName + " in " + kVariable + ", " + kHint);
}

template <typename Function>
Function function_of(void* library, const char* name) {
  return reinterpret_cast<Function>(library != nullptr ? ::dlsym(library, name) : nullptr);
}

}  // namespace

std::string own_folder() {
  Dl_info facts{};
  const auto* here = reinterpret_cast<const void*>(&own_folder);
  if (::dladdr(here, &facts) == 0 || facts.dli_fname == nullptr) return "";
  return folder_of(resolved(facts.dli_fname));
}

std::string kernels_for(const KernelNeeds& needs, const std::string& wanted,
                        const std::string& where) {
  if (needs.abi != kAbi || needs.panels != kPanels) {
    throw Error(Kind::environment,
                "the bundle needs native kernels of ABI " + std::to_string(needs.abi) +
                    " for panels of version " + std::to_string(needs.panels) +
                    "; this moe_export has ABI " + std::to_string(kAbi) + " and version " +
                    std::to_string(kPanels),
                where, "run it with the release that made it, or export the model again");
  }
  const std::string path = candidate(wanted);
  // Stays loaded: ONNX Runtime loads it too, and its threads may be in it.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto abi = function_of<uint32_t (*)()>(library, "moe_export_ort_abi");
  const auto isa = function_of<const char* (*)()>(library, "moe_export_ort_isa");
  if (abi == nullptr || isa == nullptr) {
    const char* why = ::dlerror();
    throw Error(Kind::environment,
                "the native kernels cannot be loaded: " + first_line(why != nullptr ? why : "?"),
                path, std::string("install moe_export again, ") + kHint);
  }
  if (abi() != static_cast<uint32_t>(kAbi)) {
    throw Error(Kind::environment,
                "the native kernels have ABI " + std::to_string(abi()) + ", this moe_export needs " +
                    std::to_string(kAbi),
                path, std::string("install moe_export again, ") + kHint);
  }
  if (isa() == nullptr) {
    const char* level = std::getenv("MOE_EXPORT_CPU");
    throw Error(Kind::environment,
                "no native kernels for the level " + in_quotes(level != nullptr ? level : "") +
                    " on this machine",
                "MOE_EXPORT_CPU", "unset it to use the best that is here");
  }
  return path;
}

}  // namespace moe::runtime
