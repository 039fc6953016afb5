// A launch under way, and the memory that it may touch.
#ifndef MOE_EXPORT_TOOLS_PTX_LAUNCH_H_
#define MOE_EXPORT_TOOLS_PTX_LAUNCH_H_

#include "machine.h"
#include "ops.h"

namespace ptx {

struct Launch {
  const Kernel* kernel;
  u32 serial;  // counts launches
  u32 grid[3], block[3];
  u32 block_index;  // of all blocks
  u32 at[3];        // the same as x, y, z
  u32 epoch;        // counts barriers of the block
  Shared shared;
  std::vector<u8> parameters;
  std::vector<Warp> warps;
};

constexpr u32 kByAtomics = 0xffffffff;

// Who wrote a byte of global memory last.
struct Written {
  u32 launch, block, epoch, warp;
};

struct Buffer {
  u8* base;
  size_t size;
  bool writable;
  u8* initialised;   // a byte for a byte
  Written* written;  // null where nothing may be written
};

// The buffer that has all of these bytes, or a Fault.
Buffer& buffer_of(const Site& site, int lane, u64 address, size_t size, const char* verb);
// Checks and gives the bytes that a lane reads.
const u8* readable(Warp& w, const Site& site, int lane, u64 address, size_t size);

// The bytes that the warp as a whole reads.
const u8* shared_bytes(Warp& w, const Site& site, u32 address, size_t size);
void begin_shared(Shared& shared, size_t size);
std::string hex(u64 number);

// A lane's element of a register, and back.
inline u64 element_of(const Element& element, int lane) {
  if (element.width == 1) return static_cast<const u8*>(element.lanes)[lane];
  if (element.width == 2) return static_cast<const u16*>(element.lanes)[lane];
  if (element.width == 4) return static_cast<const u32*>(element.lanes)[lane];
  return static_cast<const u64*>(element.lanes)[lane];
}

inline void put_element(const Element& element, int lane, u64 value) {
  if (element.width == 1)
    static_cast<u8*>(element.lanes)[lane] = static_cast<u8>(value);
  else if (element.width == 2)
    static_cast<u16*>(element.lanes)[lane] = static_cast<u16>(value);
  else if (element.width == 4)
    static_cast<u32*>(element.lanes)[lane] = static_cast<u32>(value);
  else
    static_cast<u64*>(element.lanes)[lane] = value;
}

void put_elements(const u8* bytes, int lane, Access access, const Element* to);
void take_elements(u8* bytes, int lane, Access access, const Element* from);

}  // namespace ptx

#endif  // MOE_EXPORT_TOOLS_PTX_LAUNCH_H_
