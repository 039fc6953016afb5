#include "memory.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "library.h"

namespace moe_trt_tests {

namespace {

constexpr uint8_t kGuard = 0xd5;
// Results that were never written are NaN, or no expert.
constexpr uint8_t kUnwritten = 0xff;
// More than the cache of any GPU.
constexpr size_t kDirt = size_t{256} << 20;

class HostMemory final : public Memory {
 public:
  uint8_t* take(size_t bytes) override {
    void* base = nullptr;
    if (posix_memalign(&base, 256, bytes ? bytes : 1)) std::abort();
    return static_cast<uint8_t*>(base);
  }
  void give(uint8_t* address) override { std::free(address); }
  void write(uint8_t* to, const void* from, size_t bytes) override {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void read(void* to, const uint8_t* from, size_t bytes) override {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void* stream() override { return nullptr; }
  void wait() override {}
  bool watched() const override {
#ifdef __SANITIZE_ADDRESS__
    return true;
#else
    return false;
#endif
  }
};

class DriverMemory final : public Memory {
 public:
  DriverMemory() : driver_(dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL)) {
    if (driver_ == nullptr) throw Failure{dlerror()};
    check("cuInit", call<unsigned>("cuInit", 0u));
    check("cuDeviceGet", call<int*, int>("cuDeviceGet", &device_, 0));
    void* context = nullptr;
    check("cuDevicePrimaryCtxRetain",
          call<void**, int>("cuDevicePrimaryCtxRetain", &context, device_));
    check("cuCtxSetCurrent", call<void*>("cuCtxSetCurrent", context));
    check("cuStreamCreate", call<void**, unsigned>("cuStreamCreate", &stream_, 1u));
  }
  // Modules that a library loaded go with the context, so the context stays.
  ~DriverMemory() override {
    if (dirt_ != nullptr) give(dirt_);
    if (dlsym(driver_, "cuStreamDestroy_v2")) call<void*>("cuStreamDestroy_v2", stream_);
  }

  uint8_t* take(size_t bytes) override {
    uint64_t address = 0;
    check("cuMemAlloc", call<uint64_t*, size_t>("cuMemAlloc_v2", &address, std::max<size_t>(bytes, 1)));
    return reinterpret_cast<uint8_t*>(address);
  }
  void give(uint8_t* address) override { call<uint64_t>("cuMemFree_v2", number(address)); }
  void write(uint8_t* to, const void* from, size_t bytes) override {
    if (!bytes) return;
    check("cuMemcpyHtoD",
          call<uint64_t, const void*, size_t>("cuMemcpyHtoD_v2", number(to), from, bytes));
  }
  void read(void* to, const uint8_t* from, size_t bytes) override {
    if (!bytes) return;
    check("cuMemcpyDtoH", call<void*, uint64_t, size_t>("cuMemcpyDtoH_v2", to, number(from), bytes));
  }
  void* stream() override { return stream_; }
  void wait() override { check("cuStreamSynchronize", call<void*>("cuStreamSynchronize", stream_)); }
  void evict() override {
    if (!dlsym(driver_, "cuMemsetD8Async")) return;
    if (dirt_ == nullptr) dirt_ = take(kDirt);
    check("cuMemsetD8Async", call<uint64_t, unsigned char, size_t, void*>(
                                 "cuMemsetD8Async", number(dirt_), uint8_t{0}, kDirt, stream_));
  }

 private:
  static uint64_t number(const void* address) { return reinterpret_cast<uint64_t>(address); }
  template <typename... Arguments>
  int call(const char* name, Arguments... arguments) {
    void* found = dlsym(driver_, name);
    if (found == nullptr) throw Failure{std::string("libcuda.so.1 has no ") + name};
    return reinterpret_cast<int (*)(Arguments...)>(found)(arguments...);
  }
  static void check(const char* what, int result) {
    if (result != 0) throw Failure{std::string(what) + " returned " + std::to_string(result)};
  }

  void* driver_;
  int device_ = 0;
  void* stream_ = nullptr;
  uint8_t* dirt_ = nullptr;
};

}  // namespace

std::unique_ptr<Memory> host_memory() { return std::make_unique<HostMemory>(); }
std::unique_ptr<Memory> driver_memory() { return std::make_unique<DriverMemory>(); }

Block::Block(Memory& memory, size_t bytes, size_t shift)
    : memory_(memory),
      offset_(128 + shift),
      bytes_(bytes),
      guard_(memory.watched() ? 0 : 4096),
      base_(memory.take(offset_ + bytes + guard_)) {
  std::vector<uint8_t> fill(offset_ + bytes + guard_, kGuard);
  std::fill_n(fill.begin() + static_cast<std::ptrdiff_t>(offset_), bytes, kUnwritten);
  memory_.write(base_, fill.data(), fill.size());
}

Block::~Block() { memory_.give(base_); }

void Block::write(const void* from) { memory_.write(base_ + offset_, from, bytes_); }

std::vector<uint8_t> Block::read() const {
  std::vector<uint8_t> bytes(bytes_);
  memory_.read(bytes.data(), base_ + offset_, bytes_);
  return bytes;
}

bool Block::whole() const {
  std::vector<uint8_t> all(offset_ + bytes_ + guard_);
  memory_.read(all.data(), base_, all.size());
  const auto is_guard = [](uint8_t byte) { return byte == kGuard; };
  return std::all_of(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(offset_), is_guard) &&
         std::all_of(all.end() - static_cast<std::ptrdiff_t>(guard_), all.end(), is_guard);
}

}  // namespace moe_trt_tests
