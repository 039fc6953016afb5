// The driver itself: devices, contexts, streams, errors.
#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <set>

#include "mock.h"

namespace mock {

std::mutex& lock() {
  static std::mutex mutex;
  return mutex;
}

static std::string g_words;

Result error(Result result, std::string words) {
  g_words = std::move(words);
  return result;
}

const char* last_error() {
  return g_words.c_str();
}

int capability() {
  const char* text = std::getenv("MOE_EXPORT_MOCK_CAPABILITY");
  return text && *text ? std::atoi(text) : 80;
}

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
int shared_limit() {
  switch (capability()) {
    case 80:
    case 87: return 163 << 10;
    case 86:
    case 89:
    case 120:
    case 121: return 99 << 10;
    default: return 227 << 10;
  }
}

static int g_context;  // its address is the one context
static thread_local void* g_current = nullptr;
static std::set<void*> g_streams;

bool has_context() {
  return g_current != nullptr;
}
bool is_stream(void* stream) {
  // 0, 1 and 2 are the default streams.
  return reinterpret_cast<uintptr_t>(stream) <= 2 || g_streams.count(stream);
}

// cuda.h's numbers of what a device is asked for.
static bool attribute(int which, int* value) {
  switch (which) {
    case 1: *value = 1024; return true;  // threads of a block
    case 2:
    case 3: *value = 1024; return true;        // along x and y
    case 4: *value = 64; return true;          // along z
    case 5: *value = 2147483647; return true;  // blocks along x
    case 6:
    case 7: *value = 65535; return true;     // along y and z
    case 8: *value = 48 << 10; return true;  // shared memory without asking
    case 10: *value = 32; return true;       // lanes of a warp
    case 16: *value = 108; return true;      // multiprocessors
    case 41: *value = 1; return true;        // one address space
    case 75: *value = capability() / 10; return true;
    case 76: *value = capability() % 10; return true;
    case 97: *value = shared_limit(); return true;
    default: return false;
  }
}

}  // namespace mock

using namespace mock;

MOCK_API const char* mock_cuda_last_error() {
  return last_error();
}

MOCK_API Result cuInit(unsigned) {
  return kSuccess;
}

MOCK_API Result cuDriverGetVersion(int* version) {
  *version = 12080;
  return kSuccess;
}

MOCK_API Result cuDeviceGetCount(int* count) {
  *count = 1;
  return kSuccess;
}

MOCK_API Result cuDeviceGet(int* device, int ordinal) {
  if (ordinal != 0) return error(kInvalidDevice, "there is one device, number 0");
  *device = 0;
  return kSuccess;
}

MOCK_API Result cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "moe-export PTX executor", length);
  return kSuccess;
}

MOCK_API Result cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = size_t(8) << 30;
  return kSuccess;
}

MOCK_API Result cuDeviceGetAttribute(int* value, int which, int device) {
  if (device != 0) return error(kInvalidDevice, "there is one device, number 0");
  if (attribute(which, value)) return kSuccess;
  return error(kInvalidValue,
               "device attribute " + std::to_string(which) + " is not known to the mock driver");
}

MOCK_API Result cuDevicePrimaryCtxRetain(void** context, int device) {
  if (device != 0) return error(kInvalidDevice, "there is one device, number 0");
  *context = &g_context;
  return kSuccess;
}

MOCK_API Result cuDevicePrimaryCtxRelease_v2(int) {
  return kSuccess;
}

MOCK_API Result cuCtxGetCurrent(void** context) {
  *context = g_current;
  return kSuccess;
}

MOCK_API Result cuCtxSetCurrent(void* context) {
  if (context && context != &g_context) return error(kInvalidContext, "no context of this driver");
  g_current = context;
  return kSuccess;
}

MOCK_API Result cuCtxGetDevice(int* device) {
  if (!g_current) return error(kInvalidContext, "no context is current");
  *device = 0;
  return kSuccess;
}

MOCK_API Result cuCtxGetId(void* context, unsigned long long* id) {
  if (context && context != &g_context) return error(kInvalidContext, "no context of this driver");
  *id = 1;
  return kSuccess;
}

MOCK_API Result cuCtxSynchronize() {
  return kSuccess;
}

MOCK_API Result cuStreamCreate(void** stream, unsigned) {
  const std::lock_guard<std::mutex> held(lock());
  *stream = std::malloc(1);
  g_streams.insert(*stream);
  return kSuccess;
}

MOCK_API Result cuStreamSynchronize(void* stream) {
  const std::lock_guard<std::mutex> held(lock());
  return is_stream(stream) ? kSuccess : error(kInvalidHandle, "no stream of this driver");
}

MOCK_API Result cuStreamDestroy_v2(void* stream) {
  const std::lock_guard<std::mutex> held(lock());
  if (!g_streams.erase(stream)) return error(kInvalidHandle, "no stream of this driver");
  std::free(stream);
  return kSuccess;
}

MOCK_API Result cuGetErrorName(Result result, const char** name) {
  switch (result) {
    case kSuccess: *name = "CUDA_SUCCESS"; return kSuccess;
    case kInvalidValue: *name = "CUDA_ERROR_INVALID_VALUE"; return kSuccess;
    case kOutOfMemory: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return kSuccess;
    case kInvalidDevice: *name = "CUDA_ERROR_INVALID_DEVICE"; return kSuccess;
    case kInvalidImage: *name = "CUDA_ERROR_INVALID_IMAGE"; return kSuccess;
    case kInvalidContext: *name = "CUDA_ERROR_INVALID_CONTEXT"; return kSuccess;
    case kInvalidHandle: *name = "CUDA_ERROR_INVALID_HANDLE"; return kSuccess;
    case kNotFound: *name = "CUDA_ERROR_NOT_FOUND"; return kSuccess;
    case kIllegalAddress: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return kSuccess;
    case kLaunchFailed: *name = "CUDA_ERROR_LAUNCH_FAILED"; return kSuccess;
    case kNotSupported: *name = "CUDA_ERROR_NOT_SUPPORTED"; return kSuccess;
    default: *name = nullptr; return kInvalidValue;
  }
}

// The words of the last error, which say more than the number.
MOCK_API Result cuGetErrorString(Result result, const char** words) {
  if (result == kSuccess) {
    *words = "no error";
    return kSuccess;
  }
  if (*last_error()) {
    *words = last_error();
    return kSuccess;
  }
  return cuGetErrorName(result, words);
}

// Entry points by name, newest version first, as the real one does.
MOCK_API Result cuGetProcAddress_v2(const char* name, void** entry, int, uint64_t, int* status) {
  Dl_info me;
  dladdr(reinterpret_cast<void*>(&cuInit), &me);
  void* library = dlopen(me.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  *entry = nullptr;
  for (const char* version : {"_v2", ""}) {
    if (library && !*entry) *entry = dlsym(library, (std::string(name) + version).c_str());
  }
  if (library) dlclose(library);
  if (status) *status = *entry ? 0 : 1;  // found, or no such symbol
  return *entry ? kSuccess : error(kNotFound, std::string(name) + " is not known to the mock driver");
}

MOCK_API Result cuGetProcAddress(const char* name, void** entry, int version, uint64_t flags) {
  return cuGetProcAddress_v2(name, entry, version, flags, nullptr);
}
