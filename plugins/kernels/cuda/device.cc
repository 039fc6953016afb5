// Loads the kernels once for each context, and launches them.
#include "device.h"

#include <map>
#include <memory>
#include <mutex>

namespace moe::cuda {
namespace {

// More shared memory than this a function has to be allowed (CUDA C++ Programming Guide).
constexpr unsigned kSharedWithoutAsking = 48 << 10;
constexpr size_t kMostArguments = 32;
constexpr size_t kMostBlocksAlongY = 65535;

const char* load_functions(Device* device) {
  const Driver& driver = *device->driver;
  Module module = nullptr;
  if (const Result result = driver.load_module(&module, kImage))
    return failed(driver, result, "loading the GPU kernels");
  for (size_t i = 0; i < kKernels; ++i) {
    const KernelRow& row = row_of(Kernel(i));
    Function* function = &device->functions[i];
    if (const Result result = driver.get_function(function, module, row.name))
      return failed(driver, result, row.name);
    const unsigned shared = resources_of(Kernel(i), device->sm).shared_bytes;
    if (shared <= kSharedWithoutAsking) continue;
    if (const Result result =
            driver.set_function_attribute(*function, kMaxDynamicSharedSize, int(shared)))
      return failed(driver, result, row.name);
  }
  return nullptr;
}

// The device of the current context, without its functions.
const char* describe(Device* device) {
  const Driver& driver = *device->driver;
  int ordinal = 0, major = 0, minor = 0;
  Result result = driver.get_device(&ordinal);
  if (!result) result = driver.get_attribute(&major, kComputeCapabilityMajor, ordinal);
  if (!result) result = driver.get_attribute(&minor, kComputeCapabilityMinor, ordinal);
  if (result) return failed(driver, result, "asking for the compute capability");
  device->compute_capability = 10 * major + minor;
  device->sm = sm_for(device->compute_capability);
  if (device->sm) return nullptr;
  return says("no kernels for a GPU of compute capability %d.%d: 8.0 (Ampere) is the oldest", major,
              minor);
}

}  // namespace

const Device* current_device(const char** why) {
  const Driver* found = driver(why);
  if (!found) return nullptr;
  Context context = nullptr;
  if (const Result result = found->get_context(&context)) {
    *why = failed(*found, result, "asking for the CUDA context");
    return nullptr;
  }
  if (!context) {
    *why = "no CUDA context is current in this thread";
    return nullptr;
  }
  // An address may come again after a context has gone; an id does not.
  unsigned long long id = 0;
  if (!found->get_context_id || found->get_context_id(context, &id)) id = 0;

  static std::mutex mutex;
  static std::map<std::pair<Context, unsigned long long>, std::unique_ptr<Device>> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Device>& held = devices[{context, id}];
  if (held) return held.get();
  auto device = std::make_unique<Device>();
  device->driver = found;
  *why = describe(device.get());
  if (!*why) *why = load_functions(device.get());
  if (*why) return nullptr;
  held = std::move(device);
  return held.get();
}

int compute_capability(const Device* device) { return device->compute_capability; }

const char* launch(const Device* device, Kernel kernel, Grid grid, Stream stream,
                   const Argument* arguments, size_t count) {
  if (!grid.x || !grid.y) return nullptr;
  const KernelRow& row = row_of(kernel);
  void* pointers[kMostArguments + 2];
  size_t i = 0;
  for (; i < count && i < kMostArguments && row.letters[i] == arguments[i].letter; ++i)
    pointers[i] = const_cast<const void**>(&arguments[i].pointer);
  if (i != count || row.letters[count]) return says("%s: argument %zu is of another type", row.name, i);
  if (!fits(grid.x) || grid.y > kMostBlocksAlongY)
    return says("%s: %zu by %zu blocks are more than a GPU launches at once", row.name, grid.x, grid.y);
  const void* no_scratch = nullptr;
  pointers[count] = pointers[count + 1] = &no_scratch;
  const Resources& needs = resources_of(kernel, device->sm);
  const Result result =
      device->driver->launch(device->functions[size_t(kernel)], unsigned(grid.x), unsigned(grid.y), 1,
                             needs.threads, 1, 1, needs.shared_bytes, stream, pointers, nullptr);
  return result ? failed(*device->driver, result, row.name) : nullptr;
}

}  // namespace moe::cuda
