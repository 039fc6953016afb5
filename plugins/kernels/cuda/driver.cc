// libcuda.so.1, opened when it is first asked for.
#include "driver.h"

#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>

namespace moe::cuda {
namespace {

struct Loaded {
  Driver driver{};
  char why[256] = "";
  bool works = false;
};

template <typename Entry>
bool find(void* library, const char* name, Entry* entry) {
  *entry = reinterpret_cast<Entry>(dlsym(library, name));
  return *entry != nullptr;
}

Loaded load() {
  Loaded loaded;
  void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* words = dlerror();
    std::snprintf(loaded.why, sizeof loaded.why, "no CUDA driver on this machine (%s)",
                  words ? words : "libcuda.so.1");
    return loaded;
  }
  Driver& d = loaded.driver;
  const char* missing = nullptr;
  const auto need = [&](const char* name, auto* entry) {
    if (!find(library, name, entry) && !missing) missing = name;
  };
  need("cuCtxGetCurrent", &d.get_context);
  need("cuCtxGetDevice", &d.get_device);
  need("cuDeviceGetAttribute", &d.get_attribute);
  need("cuModuleLoadData", &d.load_module);
  need("cuModuleGetFunction", &d.get_function);
  need("cuFuncSetAttribute", &d.set_function_attribute);
  need("cuLaunchKernel", &d.launch);
  need("cuGetErrorString", &d.error_string);
  find(library, "cuCtxGetId", &d.get_context_id);
  if (missing)
    std::snprintf(loaded.why, sizeof loaded.why, "libcuda.so.1 has no %s: the driver is too old",
                  missing);
  loaded.works = !missing;
  return loaded;
}

}  // namespace

const Driver* driver(const char** why) {
  static const Loaded loaded = load();
  if (loaded.works) return &loaded.driver;
  *why = loaded.why;
  return nullptr;
}

const char* says(const char* format, ...) {
  thread_local char words[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(words, sizeof words, format, arguments);
  va_end(arguments);
  return words;
}

const char* failed(const Driver& driver, Result result, const char* what) {
  const char* words = nullptr;
  if (driver.error_string(result, &words) != 0 || !words) words = "an unknown error";
  return says("%s: %s (CUDA error %d)", what, words, result);
}

}  // namespace moe::cuda
