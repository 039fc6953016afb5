// Global memory: the buffers that a test gave, what of them is known, and the ways to reach them.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "each.h"
#include "float_types.h"
#include "launch.h"

namespace ptx {

static std::vector<Buffer>& buffers() {
  static std::vector<Buffer> all;  // by address
  return all;
}

// The last buffer that begins at or before the address.
static Buffer* buffer_before(u64 address) {
  static size_t last = 0;
  std::vector<Buffer>& all = buffers();
  const auto holds = [&](const Buffer& b) { return address - u64(b.base) < b.size; };
  if (last < all.size() && holds(all[last])) return &all[last];
  const auto behind = std::upper_bound(all.begin(), all.end(), address,
                                       [](u64 a, const Buffer& b) { return a < u64(b.base); });
  if (behind == all.begin()) return nullptr;
  last = behind - all.begin() - 1;
  return &all[last];
}

std::string hex(u64 number) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(number));
  return text;
}

static std::string place(u64 address) {
  const Buffer* buffer = buffer_before(address);
  if (!buffer) return "before every buffer";
  const u64 offset = address - u64(buffer->base);
  const std::string of =
      " of the buffer of " + std::to_string(buffer->size) + " bytes at " + hex(u64(buffer->base));
  return "byte " + std::to_string(offset) + of;
}

Buffer& buffer_of(const Site& site, int lane, u64 address, size_t size, const char* verb) {
  Buffer* buffer = buffer_before(address);
  if (!buffer || address - u64(buffer->base) + size > buffer->size) {
    fail(site, lane,
         std::string(verb) + " " + std::to_string(size) + " bytes at " + hex(address) +
             ", outside of every buffer: " + place(address));
  }
  if (address % size)
    fail(site, lane,
         std::string(verb) + " " + std::to_string(size) + " bytes at " + hex(address) + ", not aligned");
  return *buffer;
}

static void require_order(Warp& w, const Site& site, int lane, const Written& last, u64 address,
                          const char* verb) {
  const Launch& launch = *w.launch;
  if (last.launch != launch.serial || w.acquired) return;
  const std::string at = std::string(verb) + " " + hex(address) + " (" + place(address) + "), which ";
  if (last.block == kByAtomics) fail(site, lane, at + "an atomic changed in the same launch");
  if (last.block != launch.block_index)
    fail(site, lane, at + "block " + std::to_string(last.block) + " wrote in the same launch");
  if (last.warp != w.index && last.epoch == launch.epoch)
    fail(site, lane, at + "warp " + std::to_string(last.warp) + " wrote with no barrier in between");
}

const u8* readable(Warp& w, const Site& site, int lane, u64 address, size_t size) {
  Buffer& buffer = buffer_of(site, lane, address, size, "reads");
  const size_t offset = address - u64(buffer.base);
  for (size_t i = offset; i < offset + size; ++i) {
    if (!buffer.initialised[i])
      fail(site, lane, "reads " + hex(address) + " (" + place(address) + "), which nobody has written");
    if (buffer.written && buffer.written[i].launch)
      require_order(w, site, lane, buffer.written[i], address, "reads");
  }
  return buffer.base + offset;
}

void put_elements(const u8* bytes, int lane, Access access, const Element* to) {
  for (u32 k = 0; k < access.count; ++k, bytes += access.bytes) {
    if (!to[k].lanes) continue;
    u64 value = 0;
    std::memcpy(&value, bytes, access.bytes);
    if (access.sign_extend) {
      const int unused = 64 - 8 * int(access.bytes);
      value = u64(s64(value << unused) >> unused);
    }
    put_element(to[k], lane, value);
  }
}

void take_elements(u8* bytes, int lane, Access access, const Element* from) {
  for (u32 k = 0; k < access.count; ++k, bytes += access.bytes) {
    const u64 value = element_of(from[k], lane);
    std::memcpy(bytes, &value, access.bytes);
  }
}

void load_parameter(const Warp& w, const Mask& m, u32 offset, Access access, const Element* to) {
  each_active(m.bits, [&](int lane) { put_elements(w.parameters + offset, lane, access, to); });
}

void load_global(Warp& w, const Mask& m, const Site& site, const u64* address, s64 offset, Access access,
                 const Element* to) {
  const size_t size = access.bytes * access.count;
  each_active(m.bits, [&](int lane) {
    put_elements(readable(w, site, lane, address[lane] + offset, size), lane, access, to);
  });
}

static void write(Warp& w, const Site& site, int lane, u64 address, const u8* bytes, size_t size) {
  Buffer& buffer = buffer_of(site, lane, address, size, "writes");
  if (!buffer.writable)
    fail(site, lane, "writes to " + hex(address) + " (" + place(address) + "), which is read-only");
  const size_t offset = address - u64(buffer.base);
  for (size_t i = 0; i < size; ++i) {
    Written& last = buffer.written[offset + i];
    // Two that write the same number do no harm: lanes and warps often share a result.
    if (last.launch && buffer.base[offset + i] != bytes[i])
      require_order(w, site, lane, last, address, "overwrites");
    last = {w.launch->serial, w.launch->block_index, w.launch->epoch, w.index};
    buffer.initialised[offset + i] = 1;
    buffer.base[offset + i] = bytes[i];
  }
}

void store_global(Warp& w, const Mask& m, const Site& site, const u64* address, s64 offset,
                  Access access, const Element* from) {
  each_active(m.bits, [&](int lane) {
    u8 bytes[32];
    take_elements(bytes, lane, access, from);
    write(w, site, lane, address[lane] + offset, bytes, access.bytes * access.count);
  });
}

// The bytes that an atomic changes: in a buffer that may be written, and known.
static u8* atomic_at(Warp& w, const Site& site, int lane, u64 address, size_t size) {
  Buffer& buffer = buffer_of(site, lane, address, size, "changes");
  if (!buffer.writable)
    fail(site, lane, "changes " + hex(address) + " (" + place(address) + "), which is read-only");
  const size_t offset = address - u64(buffer.base);
  for (size_t i = offset; i < offset + size; ++i) {
    if (!buffer.initialised[i])
      fail(site, lane,
           "changes " + hex(address) + " (" + place(address) + "), which nobody has written");
    Written& last = buffer.written[i];
    if (last.launch && last.block != kByAtomics) require_order(w, site, lane, last, address, "changes");
    last = {w.launch->serial, kByAtomics, 0, 0};
  }
  return buffer.base + offset;
}

template <class T>
static T changed(Atomic how, T old, T b, T c) {
  switch (how) {
    case Atomic::add: return static_cast<T>(u64(old) + u64(b));
    case Atomic::min: return old < b ? old : b;
    case Atomic::max: return old < b ? b : old;
    case Atomic::and_: return old & b;
    case Atomic::or_: return old | b;
    case Atomic::xor_: return old ^ b;
    case Atomic::exch: return b;
    case Atomic::cas: return old == b ? c : old;
    case Atomic::inc: return old >= b ? T(0) : static_cast<T>(old + 1);
    case Atomic::dec: return old == 0 || old > b ? b : static_cast<T>(old - 1);
  }
  return old;
}

template <class T>
void atomic(Warp& w, const Mask& m, const Site& site, Atomic how, bool acquire, T* d, const u64* address,
            s64 offset, const T* b, const T* c) {
  each_active(m.bits, [&](int lane) {
    u8* place = atomic_at(w, site, lane, address[lane] + offset, sizeof(T));
    T old;
    std::memcpy(&old, place, sizeof old);
    const T now = changed(how, old, b[lane], c ? c[lane] : T(0));
    std::memcpy(place, &now, sizeof now);
    if (d) d[lane] = old;
  });
  if (acquire && m.bits) w.acquired = true;
}

template <class F>
void atomic_add_float(Warp& w, const Mask& m, const Site& site, bool acquire, typename F::Bits* d,
                      const u64* address, s64 offset, const typename F::Bits* b) {
  using Bits = typename F::Bits;
  each_active(m.bits, [&](int lane) {
    u8* place = atomic_at(w, site, lane, address[lane] + offset, sizeof(Bits));
    Bits old;
    std::memcpy(&old, place, sizeof old);
    const Bits now = Of<F>::store(Of<F>::load(old) + Of<F>::load(b[lane]));
    std::memcpy(place, &now, sizeof now);
    if (d) d[lane] = old;
  });
  if (acquire && m.bits) w.acquired = true;
}

void fence(Warp& w) {
  w.acquired = true;
}

template void atomic(Warp&, const Mask&, const Site&, Atomic, bool, u32*, const u64*, s64, const u32*,
                     const u32*);
template void atomic(Warp&, const Mask&, const Site&, Atomic, bool, s32*, const u64*, s64, const s32*,
                     const s32*);
template void atomic(Warp&, const Mask&, const Site&, Atomic, bool, u64*, const u64*, s64, const u64*,
                     const u64*);
template void atomic(Warp&, const Mask&, const Site&, Atomic, bool, s64*, const u64*, s64, const s64*,
                     const s64*);
template void atomic_add_float<F32>(Warp&, const Mask&, const Site&, bool, u32*, const u64*, s64,
                                    const u32*);
template void atomic_add_float<F16>(Warp&, const Mask&, const Site&, bool, u16*, const u64*, s64,
                                    const u16*);
template void atomic_add_float<BF16>(Warp&, const Mask&, const Site&, bool, u16*, const u64*, s64,
                                     const u16*);

}  // namespace ptx

// ------------------------------------------------------------------------------- C ABI

using ptx::Buffer;
using ptx::buffer_before;
using ptx::u64;
using ptx::u8;

int ptx_register(void* base, size_t size, int writable, int initialised) {
  const u64 first = u64(base);
  for (const Buffer& b : ptx::buffers())
    if (first < u64(b.base) + b.size && u64(b.base) < first + size) return 1;
  Buffer buffer = {static_cast<u8*>(base), size, writable != 0, nullptr, nullptr};
  buffer.initialised = static_cast<u8*>(std::calloc(size + 1, 1));
  if (initialised) std::memset(buffer.initialised, 1, size);
  // Untouched pages of a calloc cost nothing: what is never written is not paid for.
  if (writable) buffer.written = static_cast<ptx::Written*>(std::calloc(size + 1, sizeof(ptx::Written)));
  auto& all = ptx::buffers();
  all.insert(std::upper_bound(all.begin(), all.end(), first,
                              [](u64 a, const Buffer& b) { return a < u64(b.base); }),
             buffer);
  return 0;
}

int ptx_forget(void* base) {
  auto& all = ptx::buffers();
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].base != base) continue;
    std::free(all[i].initialised);
    std::free(all[i].written);
    all.erase(all.begin() + i);
    return 0;
  }
  return 1;
}

static Buffer* with_all_of(const void* base, size_t size) {
  Buffer* buffer = buffer_before(u64(base));
  return buffer && u64(base) - u64(buffer->base) + size <= buffer->size ? buffer : nullptr;
}

int ptx_mark(const void* base, size_t size, int initialised) {
  Buffer* buffer = with_all_of(base, size);
  if (!buffer) return 1;
  std::memset(buffer->initialised + (u64(base) - u64(buffer->base)), initialised != 0, size);
  return 0;
}

int64_t ptx_first_unwritten(const void* base, size_t size) {
  Buffer* buffer = with_all_of(base, size);
  if (!buffer) return -2;
  const u8* known = buffer->initialised + (u64(base) - u64(buffer->base));
  for (size_t i = 0; i < size; ++i)
    if (!known[i]) return static_cast<int64_t>(i);
  return -1;
}
