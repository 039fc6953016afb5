// Shared memory: every byte knows who wrote it and who read it since the last barrier.
//
// Warps run one after the other up to a barrier, which would hide that one is missing; what they touch
// in the same epoch, the time between two barriers, tells.
#include "each.h"
#include "launch.h"

namespace ptx {

enum : u8 { kNever = 0, kWritten = 1, kOnItsWay = 2 };

void begin_shared(Shared& shared, size_t size) {
  shared.bytes.assign(size, 0xa5);
  shared.known.assign(size, SharedByte{});
}

static std::string at_text(const char* verb, u32 address) {
  return std::string(verb) + " shared byte " + std::to_string(s64(address) - kSharedBase);
}

static size_t shared_offset(const Warp& w, const Site& site, int lane, u32 address, size_t size,
                            const char* verb) {
  const size_t whole = w.launch->shared.bytes.size();
  if (address < kSharedBase || address - kSharedBase + size > whole) {
    fail(site, lane,
         at_text(verb, address) + " and " + std::to_string(size) + " in all, but the launch has " +
             std::to_string(whole));
  }
  if (address % size)
    fail(site, lane, at_text(verb, address) + ", not aligned to " + std::to_string(size));
  return address - kSharedBase;
}

// The bytes that a lane reads.
static const u8* read_shared(Warp& w, const Site& site, int lane, u32 address, size_t size) {
  Launch& launch = *w.launch;
  const size_t offset = shared_offset(w, site, lane, address, size, "reads");
  const u32 epoch = launch.epoch, me = 1u << w.index;
  for (size_t i = offset; i < offset + size; ++i) {
    SharedByte& known = launch.shared.known[i];
    if (known.state == kNever)
      fail(site, lane, at_text("reads", address) + ", which nobody has written");
    if (known.state == kOnItsWay)
      fail(site, lane,
           at_text("reads", address) + ", which a cp.async may not have written yet: no wait for it");
    if (known.writer != w.index && known.write_epoch == epoch)
      fail(site, lane,
           at_text("reads", address) + ", which warp " + std::to_string(known.writer) +
               " wrote with no barrier in between");
    known.readers = known.read_epoch == epoch ? known.readers | me : me;
    known.read_epoch = epoch;
  }
  return launch.shared.bytes.data() + offset;
}

const u8* shared_bytes(Warp& w, const Site& site, u32 address, size_t size) {
  return read_shared(w, site, -1, address, size);
}

// Whether others may still be reading or writing what now becomes something else.
static void require_free(Warp& w, const Site& site, int lane, u32 address, const SharedByte& known,
                         bool same) {
  if (known.state == kOnItsWay)
    fail(site, lane, at_text("writes", address) + ", where a cp.async is still to write");
  if (same) return;  // two that write the same number do no harm
  const u32 epoch = w.launch->epoch, others = known.readers & ~(1u << w.index);
  if (known.state == kWritten && known.writer != w.index && known.write_epoch == epoch)
    fail(site, lane,
         at_text("writes", address) + ", which warp " + std::to_string(known.writer) +
             " wrote otherwise with no barrier in between");
  if (known.read_epoch == epoch && others)
    fail(site, lane,
         at_text("writes", address) + ", which warp " + std::to_string(__builtin_ctz(others)) +
             " read with no barrier in between");
}

static void write_shared(Warp& w, const Site& site, int lane, u32 address, const u8* bytes,
                         size_t size) {
  Launch& launch = *w.launch;
  const size_t offset = shared_offset(w, site, lane, address, size, "writes");
  for (size_t i = 0; i < size; ++i) {
    SharedByte& known = launch.shared.known[offset + i];
    require_free(w, site, lane, address, known,
                 known.state == kWritten && launch.shared.bytes[offset + i] == bytes[i]);
    known.state = kWritten;
    known.writer = static_cast<u8>(w.index);
    known.write_epoch = launch.epoch;
    launch.shared.bytes[offset + i] = bytes[i];
  }
}

void load_shared(Warp& w, const Mask& m, const Site& site, const u32* address, s64 offset, Access access,
                 const Element* to) {
  each_active(m.bits, [&](int lane) {
    const u32 at = static_cast<u32>(address[lane] + offset);
    put_elements(read_shared(w, site, lane, at, access.bytes * access.count), lane, access, to);
  });
}

void store_shared(Warp& w, const Mask& m, const Site& site, const u32* address, s64 offset,
                  Access access, const Element* from) {
  each_active(m.bits, [&](int lane) {
    u8 bytes[32];
    take_elements(bytes, lane, access, from);
    write_shared(w, site, lane, static_cast<u32>(address[lane] + offset), bytes,
                 access.bytes * access.count);
  });
}

// ------------------------------------------------------------------------------- cp.async

void copy_async(Warp& w, const Mask& m, const Site& site, const u32* shared, s64 shared_at,
                const u64* global, s64 global_at, u32 size, const u32* source_size) {
  Launch& launch = *w.launch;
  if (w.copies.empty()) w.copies.emplace_back();
  each_active(m.bits, [&](int lane) {
    const u32 from_global = source_size ? source_size[lane] : size;
    if (from_global > size) fail(site, lane, "copies more bytes than it writes");
    const u32 to = static_cast<u32>(shared[lane] + shared_at);
    const u64 from = global[lane] + global_at;
    const size_t offset = shared_offset(w, site, lane, to, size, "writes");
    for (size_t i = offset; i < offset + size; ++i) {
      SharedByte& known = launch.shared.known[i];
      require_free(w, site, lane, to, known, false);
      known.state = kOnItsWay;
      known.writer = static_cast<u8>(w.index);
    }
    const u8* source = nullptr;
    if (from_global == size) source = readable(w, site, lane, from, size);
    for (u32 i = 0; from_global < size && i < from_global; ++i) {
      const u8* byte = readable(w, site, lane, from + i, 1);
      if (i == 0) source = byte;
    }
    w.copies.back().push_back({to - kSharedBase, size, from_global, source, site.line, lane});
  });
}

void commit_copies(Warp& w, const Mask& m, const Site& site) {
  require_whole_warp(w, m, site);
  if (w.copies.empty()) w.copies.emplace_back();
  w.copies.emplace_back();
}

static void land(Warp& w, size_t groups) {
  Launch& launch = *w.launch;
  for (size_t g = 0; g < groups; ++g) {
    for (const Copy& copy : w.copies[g]) {
      u8* to = launch.shared.bytes.data() + copy.shared;
      std::memset(to, 0, copy.size);
      if (copy.from_global) std::memcpy(to, copy.source, copy.from_global);
      for (u32 i = copy.shared; i < copy.shared + copy.size; ++i) {
        SharedByte& known = launch.shared.known[i];
        known.state = kWritten;
        known.write_epoch = launch.epoch;
      }
    }
  }
  w.copies.erase(w.copies.begin(), w.copies.begin() + groups);
}

void wait_for_copies(Warp& w, const Mask& m, const Site& site, u32 pending) {
  require_whole_warp(w, m, site);
  const size_t committed = w.copies.empty() ? 0 : w.copies.size() - 1;
  if (committed > pending) land(w, committed - pending);
}

void wait_for_all_copies(Warp& w, const Mask& m, const Site& site) {
  require_whole_warp(w, m, site);
  land(w, w.copies.size());
}

// ------------------------------------------------------------------------------- ldmatrix, stmatrix

// Row r of matrix k is at the address of lane 8 k + r; lane l holds two numbers of row l / 4.
void load_matrices(Warp& w, const Mask& m, const Site& site, int count, bool transposed, u32* const* d,
                   const u32* address, s64 offset) {
  require_whole_warp(w, m, site);
  u16 numbers[4][8][8];
  for (int lane = 0; lane < 8 * count; ++lane)
    std::memcpy(numbers[lane / 8][lane % 8],
                read_shared(w, site, lane, static_cast<u32>(address[lane] + offset), 16), 16);
  for (int k = 0; k < count; ++k) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      const u32 low = transposed ? numbers[k][column][row] : numbers[k][row][column];
      const u32 high = transposed ? numbers[k][column + 1][row] : numbers[k][row][column + 1];
      d[k][lane] = high << 16 | low;
    }
  }
}

void store_matrices(Warp& w, const Mask& m, const Site& site, int count, bool transposed,
                    const u32* const* a, const u32* address, s64 offset) {
  require_whole_warp(w, m, site);
  u16 numbers[4][8][8];
  for (int k = 0; k < count; ++k) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      const u32 pair = a[k][lane];
      (transposed ? numbers[k][column][row] : numbers[k][row][column]) = static_cast<u16>(pair);
      (transposed ? numbers[k][column + 1][row] : numbers[k][row][column + 1]) =
          static_cast<u16>(pair >> 16);
    }
  }
  for (int lane = 0; lane < 8 * count; ++lane) {
    write_shared(w, site, lane, static_cast<u32>(address[lane] + offset),
                 reinterpret_cast<const u8*>(numbers[lane / 8][lane % 8]), 16);
  }
}

}  // namespace ptx
