// Device memory: memory of the host, with a guard zone on either side.
#include <cstdlib>
#include <cstring>
#include <map>

#include "machine.h"
#include "mock.h"

namespace mock {

// As much as a row of a large matrix: what writes a row too far is seen, and not only what is one off.
constexpr size_t kGuard = 4096;
constexpr uint8_t kPattern = 0xdb;

struct Allocation {
  uint8_t* whole;  // guard, bytes, guard
  size_t size, padded;
};

static std::map<DevicePointer, Allocation>& allocations() {
  static std::map<DevicePointer, Allocation> all;
  return all;
}

static bool guards_hold(const Allocation& a) {
  const uint8_t* behind = a.whole + kGuard + a.size;
  for (size_t i = 0; i < kGuard; ++i)
    if (a.whole[i] != kPattern) return false;
  for (const uint8_t* p = behind; p < a.whole + 2 * kGuard + a.padded; ++p)
    if (*p != kPattern) return false;
  return true;
}

static std::string guard_text(size_t size) {
  return "the guard zone of a buffer of " + std::to_string(size) + " bytes was written to";
}

const char* broken_guard() {
  static std::string words;
  for (const auto& [base, allocation] : allocations()) {
    if (guards_hold(allocation)) continue;
    words = guard_text(allocation.size);
    return words.c_str();
  }
  return nullptr;
}

// Whether the bytes lie in one allocation.
static Result require(DevicePointer at, size_t size, const char* what) {
  auto behind = allocations().upper_bound(at);
  if (behind != allocations().begin()) {
    --behind;
    if (at - behind->first <= behind->second.size && size <= behind->second.size - (at - behind->first))
      return kSuccess;
  }
  return error(kInvalidValue,
               std::string(what) + ": " + std::to_string(size) + " bytes that are no device memory");
}

static void* host(DevicePointer at) {
  return reinterpret_cast<void*>(at);
}

static Result fill(DevicePointer at, const void* value, size_t width, size_t count) {
  const std::lock_guard<std::mutex> held(lock());
  if (const Result result = require(at, width * count, "memset")) return result;
  for (size_t i = 0; i < count; ++i)
    std::memcpy(static_cast<uint8_t*>(host(at)) + i * width, value, width);
  ptx_mark(host(at), width * count, 1);
  return kSuccess;
}

}  // namespace mock

using namespace mock;

MOCK_API Result cuMemAlloc_v2(DevicePointer* pointer, size_t size) {
  const std::lock_guard<std::mutex> held(lock());
  if (size == 0) return error(kInvalidValue, "an allocation of no bytes");
  const size_t padded = (size + 511) / 512 * 512;
  auto* whole = static_cast<uint8_t*>(std::aligned_alloc(512, padded + 2 * kGuard));
  if (!whole) return error(kOutOfMemory, "no memory for " + std::to_string(size) + " bytes");
  std::memset(whole, kPattern, kGuard);
  std::memset(whole + kGuard + size, kPattern, padded - size + kGuard);
  *pointer = reinterpret_cast<DevicePointer>(whole + kGuard);
  allocations()[*pointer] = {whole, size, padded};
  ptx_register(host(*pointer), size, 1, 0);
  return kSuccess;
}

MOCK_API Result cuMemFree_v2(DevicePointer pointer) {
  const std::lock_guard<std::mutex> held(lock());
  if (!pointer) return kSuccess;
  const auto found = allocations().find(pointer);
  if (found == allocations().end()) return error(kInvalidValue, "frees what was not allocated");
  const bool whole = guards_hold(found->second);
  const size_t size = found->second.size;
  ptx_forget(host(pointer));
  std::free(found->second.whole);
  allocations().erase(found);
  return whole ? kSuccess : error(kIllegalAddress, guard_text(size));
}

MOCK_API Result cuMemGetInfo_v2(size_t* free, size_t* total) {
  *free = *total = size_t(8) << 30;
  return kSuccess;
}

MOCK_API Result cuMemcpyHtoD_v2(DevicePointer to, const void* from, size_t size) {
  const std::lock_guard<std::mutex> held(lock());
  if (const Result result = require(to, size, "copy to the device")) return result;
  std::memcpy(host(to), from, size);
  ptx_mark(host(to), size, 1);
  return kSuccess;
}

MOCK_API Result cuMemcpyDtoH_v2(void* to, DevicePointer from, size_t size) {
  const std::lock_guard<std::mutex> held(lock());
  if (const Result result = require(from, size, "copy from the device")) return result;
  std::memcpy(to, host(from), size);
  return kSuccess;
}

MOCK_API Result cuMemcpyDtoD_v2(DevicePointer to, DevicePointer from, size_t size) {
  const std::lock_guard<std::mutex> held(lock());
  if (const Result result = require(to, size, "copy on the device")) return result;
  if (const Result result = require(from, size, "copy on the device")) return result;
  std::memmove(host(to), host(from), size);
  ptx_mark(host(to), size, ptx_first_unwritten(host(from), size) == -1);
  return kSuccess;
}

MOCK_API Result cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t size, void*) {
  return cuMemcpyHtoD_v2(to, from, size);
}
MOCK_API Result cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t size, void*) {
  return cuMemcpyDtoH_v2(to, from, size);
}
MOCK_API Result cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t size, void*) {
  return cuMemcpyDtoD_v2(to, from, size);
}

MOCK_API Result cuMemsetD8_v2(DevicePointer at, unsigned char value, size_t count) {
  return fill(at, &value, sizeof value, count);
}
MOCK_API Result cuMemsetD32_v2(DevicePointer at, unsigned value, size_t count) {
  return fill(at, &value, sizeof value, count);
}
MOCK_API Result cuMemsetD8Async(DevicePointer at, unsigned char value, size_t count, void*) {
  return fill(at, &value, sizeof value, count);
}
MOCK_API Result cuMemsetD32Async(DevicePointer at, unsigned value, size_t count, void*) {
  return fill(at, &value, sizeof value, count);
}

// The offset of the first byte that neither the host nor a kernel has written, or -1.
MOCK_API int64_t mock_cuda_first_unwritten(DevicePointer at, size_t size) {
  const std::lock_guard<std::mutex> held(lock());
  return ptx_first_unwritten(host(at), size);
}

// Makes the bytes unknown again, as memory is that was used before.
MOCK_API int mock_cuda_forget_contents(DevicePointer at, size_t size) {
  const std::lock_guard<std::mutex> held(lock());
  return ptx_mark(host(at), size, 0);
}
