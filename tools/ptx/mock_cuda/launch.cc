// Modules and launches.  What a module's image holds is not looked at: kernels are those that the
// folder MOE_EXPORT_PTX_MODULE holds as libraries of the executor, found by name.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <vector>

#include "machine.h"
#include "mock.h"

namespace mock {

using Launcher = int (*)(const char*, const unsigned*, const unsigned*, unsigned, void**, char*, size_t);

struct Function {
  const ptx::Kernel* kernel;
  Launcher launch;
  int most_shared = 48 << 10;  // until more is asked for
  uint64_t launches = 0;
};

static std::map<std::string, std::unique_ptr<Function>>& functions() {
  static std::map<std::string, std::unique_ptr<Function>> all;
  return all;
}

static int g_module;  // its address is the one module

static std::string load(const std::filesystem::path& file) {
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return dlerror();
  const auto list = reinterpret_cast<const ptx::Kernel* (*)(size_t*)>(dlsym(library, "ptx_kernels"));
  const auto launcher = reinterpret_cast<Launcher>(dlsym(library, "ptx_launch"));
  if (!list || !launcher) return file.string() + " is no library of the PTX executor";
  size_t count = 0;
  const ptx::Kernel* kernels = list(&count);
  for (size_t i = 0; i < count; ++i)
    functions()[kernels[i].name] = std::unique_ptr<Function>(new Function{&kernels[i], launcher});
  return "";
}

// Once: the folder does not change while a process runs.
static std::string load_all() {
  if (!functions().empty()) return "";
  const char* folder = std::getenv("MOE_EXPORT_PTX_MODULE");
  std::error_code missing;
  if (!folder || !std::filesystem::is_directory(folder, missing))
    return "MOE_EXPORT_PTX_MODULE names no folder of built kernels (python -m tools.ptx build)";
  // Kernels take the runtime from the process, where this library may have brought it in for itself.
  Dl_info runtime;
  dladdr(reinterpret_cast<void*>(&ptx_register), &runtime);
  if (!dlopen(runtime.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD)) return dlerror();
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".so") continue;
    const std::string wrong = load(entry.path());
    if (!wrong.empty()) return wrong;
  }
  return functions().empty() ? std::string("no kernels in ") + folder : "";
}

static Result launch(Function& f, const unsigned grid[3], const unsigned block[3], unsigned shared,
                     void* stream, void** arguments) {
  if (!has_context()) return error(kInvalidContext, "no context is current");
  if (!is_stream(stream)) return error(kInvalidHandle, "no stream of this driver");
  if (int(shared) > f.most_shared)
    return error(kInvalidValue, std::string(f.kernel->name) + ": " + std::to_string(shared) +
                                    " bytes of shared memory, but the function may have " +
                                    std::to_string(f.most_shared));
  char words[4096] = "";
  const char* reversed = std::getenv("MOE_EXPORT_PTX_REVERSE");
  ptx_reverse(reversed && *reversed == '1');
  ++f.launches;
  if (f.launch(f.kernel->name, grid, block, shared, arguments, words, sizeof words))
    return error(kLaunchFailed, words);
  if (const char* broken = broken_guard())
    return error(kIllegalAddress, std::string(f.kernel->name) + ": " + broken);
  return kSuccess;
}

// CUlaunchConfig.
struct Config {
  unsigned grid[3], block[3], shared;
  void* stream;
  void* attributes;
  unsigned num_attributes;
};

}  // namespace mock

using namespace mock;

MOCK_API uint64_t mock_cuda_launches_of(const char* name) {
  const std::lock_guard<std::mutex> held(lock());
  const auto found = functions().find(name);
  return found == functions().end() ? 0 : found->second->launches;
}

// Gives a kernel another library's code, for tests of what is wrong with a kernel.
MOCK_API Result mock_cuda_replace(const char* name, const char* file) {
  const std::lock_guard<std::mutex> held(lock());
  const auto found = functions().find(name);
  void* library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (found == functions().end() || !library) return error(kNotFound, library ? name : dlerror());
  const auto list = reinterpret_cast<const ptx::Kernel* (*)(size_t*)>(dlsym(library, "ptx_kernels"));
  size_t count = 0;
  const ptx::Kernel* kernels = list(&count);
  for (size_t i = 0; i < count; ++i) {
    if (std::strcmp(kernels[i].name, name) != 0) continue;
    found->second->kernel = &kernels[i];
    found->second->launch = reinterpret_cast<Launcher>(dlsym(library, "ptx_launch"));
    return kSuccess;
  }
  return error(kNotFound, std::string(file) + " has no " + name);
}

MOCK_API Result cuModuleLoadData(void** module, const void* image) {
  const std::lock_guard<std::mutex> held(lock());
  if (!has_context()) return error(kInvalidContext, "no context is current");
  if (!image) return error(kInvalidImage, "no image");
  const std::string wrong = load_all();
  if (!wrong.empty()) return error(kInvalidImage, wrong);
  *module = &g_module;
  return kSuccess;
}

MOCK_API Result cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(module, image);
}

MOCK_API Result cuModuleUnload(void* module) {
  return module == &g_module ? kSuccess : error(kInvalidHandle, "no module of this driver");
}

MOCK_API Result cuModuleGetFunction(void** function, void* module, const char* name) {
  const std::lock_guard<std::mutex> held(lock());
  if (module != &g_module) return error(kInvalidHandle, "no module of this driver");
  const auto found = functions().find(name);
  if (found == functions().end())
    return error(kNotFound, std::string(name) + " is not among the built kernels");
  *function = found->second.get();
  return kSuccess;
}

MOCK_API Result cuFuncSetAttribute(void* function, int attribute, int value) {
  const std::lock_guard<std::mutex> held(lock());
  auto* f = static_cast<Function*>(function);
  if (attribute == 9) return kSuccess;  // how much of the L1 is shared memory: a wish
  if (attribute != 8)
    return error(kInvalidValue, "function attribute " + std::to_string(attribute) + " cannot be set");
  if (value < 0 || value + int(f->kernel->static_shared) > shared_limit())
    return error(kInvalidValue, std::string(f->kernel->name) + ": " + std::to_string(value) +
                                    " bytes of shared memory, the device has " +
                                    std::to_string(shared_limit()));
  f->most_shared = value;
  return kSuccess;
}

MOCK_API Result cuFuncGetAttribute(int* value, int attribute, void* function) {
  const auto* f = static_cast<const Function*>(function);
  switch (attribute) {
    case 0: *value = f->kernel->max_threads ? int(f->kernel->max_threads) : 1024; return kSuccess;
    case 1: *value = int(f->kernel->static_shared); return kSuccess;
    case 8: *value = f->most_shared; return kSuccess;
    default:
      return error(kInvalidValue, "function attribute " + std::to_string(attribute) +
                                      " is not known to the mock driver");
  }
}

MOCK_API Result cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                               void* stream, void** arguments, void** extra) {
  const std::lock_guard<std::mutex> held(lock());
  if (!function || extra || !arguments)
    return error(kNotSupported, "arguments come as pointers, to a function");
  const unsigned grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
  return launch(*static_cast<Function*>(function), grid, block, shared, stream, arguments);
}

MOCK_API Result cuLaunchKernelEx(const Config* config, void* function, void** arguments, void** extra) {
  const std::lock_guard<std::mutex> held(lock());
  if (!function || extra || !arguments)
    return error(kNotSupported, "arguments come as pointers, to a function");
  if (config->num_attributes)
    return error(kNotSupported, "launch attributes are not known to the mock driver");
  return launch(*static_cast<Function*>(function), config->grid, config->block, config->shared,
                config->stream, arguments);
}
