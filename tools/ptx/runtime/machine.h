// A GPU as the translated kernels see it: 32 lanes in lock step, warps that wait for each other at
// barriers, blocks one after the other.  Whatever an access may not do ends the launch with a Fault.
#ifndef MOE_EXPORT_TOOLS_PTX_MACHINE_H_
#define MOE_EXPORT_TOOLS_PTX_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace ptx {

using u8 = uint8_t;
using s8 = int8_t;
using u16 = uint16_t;
using s16 = int16_t;
using u32 = uint32_t;
using s32 = int32_t;
using u64 = uint64_t;
using s64 = int64_t;

constexpr int kLanes = 32;
constexpr u32 kAllLanes = 0xffffffffu;

// A register of a warp.  A predicate is 0 or -1 in each lane.
template <class T>
struct alignas(32) Lanes {
  T v[kLanes];
};
using Predicate = Lanes<s32>;

// The lanes that an instruction is for.
struct Mask {
  Predicate lane;
  u32 bits;
};

// What is wrong, in words for a person.  The launch adds kernel, block and warp.
struct Fault {
  int lane;  // -1: the warp as a whole
  int line;
  std::string what;
};

// A line of PTX that can fail.
struct Site {
  int line;
  const char* text;
};

// 1024: on real devices too, a low address is nobody's.
constexpr u32 kSharedBase = 1024;

// What is known of one byte of shared memory.
struct SharedByte {
  u32 write_epoch, read_epoch;
  u32 readers;  // warps that read it in read_epoch
  u8 writer;    // the warp that wrote it in write_epoch
  u8 state;     // 0 never written, 1 written, 2 a cp.async is on its way
  u16 unused;
};

struct Shared {
  std::vector<u8> bytes;
  std::vector<SharedByte> known;
};

// One copy of cp.async, not yet to be seen.
struct Copy {
  u32 shared;
  u32 size, from_global;  // the rest is zeros
  const u8* source;
  int line, lane;
};

// One wgmma, not yet computed: which registers, which descriptors.
struct Product {
  Site site;
  u32 columns;
  bool bf16;
  u64 a, b;
  bool adds, transpose_a, transpose_b;
  u32* d[128];
  const u32* rows[4];  // the 16 rows of a, where they are in registers; else null
};

enum class Stop { barrier, arrived, exited };

struct Launch;

// Lanes that wait for others to come to `join`, to run from `block` then.
struct Split {
  int join, block;
  u32 bits;
};

struct Warp {
  Launch* launch;
  u32 index;
  int block;     // where it goes on
  Mask active;   // lanes that run now
  Mask guarded;  // of those, the ones whose predicate holds
  Mask guard(const Predicate& p, bool negated) const;
  u32 live;  // lanes that have not exited
  void* registers;
  const u8* parameters;
  Lanes<u32> tid[3], ntid[3], ctaid[3], nctaid[3], laneid, warpid, nwarpid;
  std::vector<Split> splits;
  std::vector<std::vector<Copy>> copies;       // groups, oldest first; the last is open
  std::vector<std::vector<Product>> products;  // groups likewise
  // The barrier it waits at.
  u32 barrier, barrier_threads;
  bool acquired;  // it saw what other blocks released
  u64 steps;
};

struct Parameter {
  u32 offset, size;
};

struct Global {
  const char* name;
  const void* data;
  size_t size;
};

struct Kernel {
  const char* name;
  const char* file;
  const Parameter* parameters;
  u32 num_parameters, parameter_bytes;
  u32 static_shared;
  u32 max_threads;  // 0: not said
  bool exact_threads;
  size_t register_bytes;
  Stop (*run)(Warp&);
};

// ------------------------------------------------------------------------------- control flow

// Where a branch leads; lanes that go the other way are kept until block `join`.
int branch(Warp& w, const Predicate& p, bool negated, int taken, int other, int join);
// The same by an index into `ways`.
int choose(Warp& w, const Site& site, const u32* index, const int* ways, u32 count, int join);
// The block that runs where one would be entered: lanes that split earlier may have to catch up.
int enter(Warp& w, int block);
// Ends the active lanes; the block where others go on, or -1.
int leave(Warp& w);
// As a mask of the lanes whose predicate holds.
const Mask& when(Warp& w, const Predicate& p, bool negated);

Stop wait_at_barrier(Warp& w, const Site& site, u32 barrier, u32 threads, bool arrive_only);

[[noreturn]] void fail(const Site& site, int lane, std::string what);
void require_whole_warp(const Warp& w, const Mask& m, const Site& site);

// ------------------------------------------------------------------------------- launching

int launch(const Kernel* kernels, size_t count, const char* name, const unsigned grid[3],
           const unsigned block[3], unsigned shared, void** arguments, char* error, size_t size);

}  // namespace ptx

// ------------------------------------------------------------------------------- C ABI

extern "C" {
// Tells where kernels may read, and write if `writable`; `initialised`: every byte is a number.
// Returns 0, or 1 where the span overlaps another.
int ptx_register(void* base, size_t size, int writable, int initialised);
int ptx_forget(void* base);
// The bytes were written (or not) by the host.
int ptx_mark(const void* base, size_t size, int initialised);
// The offset of the first byte that nobody has written, or -1; -2 where the span is no buffer's.
int64_t ptx_first_unwritten(const void* base, size_t size);
// 1: blocks and warps run last to first.
void ptx_reverse(int reversed);
}

#endif  // MOE_EXPORT_TOOLS_PTX_MACHINE_H_
