#include "session/device.h"

#include <dlfcn.h>

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

constexpr int kOutOfMemory = 2;                    // CUDA_ERROR_OUT_OF_MEMORY
constexpr int kMajor = 75, kMinor = 76;            // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
constexpr const char* kWhere = "this machine";
constexpr const char* kHint = "run this where there is a GPU";

// Loaded once and never unloaded: its threads may still run when everything else ends.
void* driver() {
  static void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw Error(Kind::environment, "no NVIDIA driver: there is no libcuda.so.1", kWhere, kHint);
  }
  return library;
}

template <typename... Arguments>
int status_of(const char* name, Arguments... arguments) {
  void* found = ::dlsym(driver(), name);
  if (found == nullptr) {
    throw Error(Kind::environment, std::string("the NVIDIA driver has no ") + name, kWhere, kHint);
  }
  return reinterpret_cast<int (*)(Arguments...)>(found)(arguments...);
}

template <typename... Arguments>
void call(const char* name, Arguments... arguments) {
  const int status = status_of(name, arguments...);
  if (status == 0) return;
  const char* text = nullptr;
  status_of("cuGetErrorString", status, &text);
  const std::string why = first_line(text != nullptr ? text : "unknown error");
  if (status == kOutOfMemory) {
    throw Error(Kind::memory, "the GPU has not enough memory: " + why, name);
  }
  throw Error(Kind::environment,
              "the NVIDIA driver fails: " + why + " (" + std::to_string(status) + ")", name);
}

int attribute(int which, int device) {
  int value = 0;
  status_of("cuDeviceGetAttribute", &value, which, device);
  return value;
}

}  // namespace

int64_t sm_here() {
  if (const int status = status_of("cuInit", 0u)) {
    throw Error(Kind::environment,
                "the NVIDIA driver does not start: error " + std::to_string(status), kWhere, kHint);
  }
  int device = 0;
  if (status_of("cuDeviceGet", &device, 0) != 0) {
    throw Error(Kind::environment, "the NVIDIA driver knows no GPU", kWhere, kHint);
  }
  return 10 * attribute(kMajor, device) + attribute(kMinor, device);
}

Device::Device() {
  call("cuInit", 0u);
  call("cuDeviceGet", &number_, 0);
  call("cuDevicePrimaryCtxRetain", &context_, number_);
  try {
    enter();
    call("cuStreamCreate", &stream_, 0u);
  } catch (const Error&) {
    status_of("cuDevicePrimaryCtxRelease_v2", number_);
    throw;
  }
}

Device::~Device() {
  // What the driver says here helps nobody; a missing function would have shown before.
  try {
    status_of("cuCtxSetCurrent", context_);
    status_of("cuStreamDestroy_v2", stream_);
    status_of("cuDevicePrimaryCtxRelease_v2", number_);
  } catch (const Error&) {
  }
}

void Device::enter() const { call("cuCtxSetCurrent", context_); }

void Device::synchronize() const { call("cuStreamSynchronize", stream_); }

DeviceBuffer::DeviceBuffer(size_t bytes) : bytes_(bytes) {
  // No bytes are no allocation to the driver, and an address is wanted all the same.
  call("cuMemAlloc_v2", &address_, std::max<size_t>(bytes, 1));
}

DeviceBuffer::~DeviceBuffer() {
  try {
    status_of("cuMemFree_v2", address_);
  } catch (const Error&) {
  }
}

void DeviceBuffer::write(const void* from) {
  if (bytes_ > 0) call("cuMemcpyHtoD_v2", address_, from, bytes_);
}

void DeviceBuffer::read(void* to) const {
  if (bytes_ > 0) call("cuMemcpyDtoH_v2", to, address_, bytes_);
}

}  // namespace moe::runtime
