// Launches: blocks one after the other, the warps of a block in turns from barrier to barrier.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "each.h"
#include "launch.h"

namespace ptx {

static bool g_reversed = false;
static u32 g_serial = 0;

static void fill(Lanes<u32>& lanes, u32 value) {
  std::fill_n(lanes.v, kLanes, value);
}

static void begin_warp(Warp& w, Launch& launch, u32 index) {
  const u32 threads = launch.block[0] * launch.block[1] * launch.block[2];
  w.launch = &launch;
  w.index = index;
  w.block = 0;
  w.parameters = launch.parameters.data();
  w.splits.clear();
  w.copies.clear();
  w.products.clear();
  w.acquired = false;
  w.steps = 0;
  w.live = 0;
  for (u32 lane = 0; lane < kLanes; ++lane) {
    const u32 thread = index * kLanes + lane;
    w.tid[0].v[lane] = thread % launch.block[0];
    w.tid[1].v[lane] = thread / launch.block[0] % launch.block[1];
    w.tid[2].v[lane] = thread / launch.block[0] / launch.block[1];
    w.laneid.v[lane] = lane;
    const bool runs = thread < threads;
    w.active.lane.v[lane] = -s32(runs);
    w.live |= u32(runs) << lane;
  }
  w.active.bits = w.live;
  for (int axis = 0; axis < 3; ++axis) {
    fill(w.ntid[axis], launch.block[axis]);
    fill(w.nctaid[axis], launch.grid[axis]);
    fill(w.ctaid[axis], launch.at[axis]);
  }
  fill(w.warpid, index);
  fill(w.nwarpid, (threads + kLanes - 1) / kLanes);
}

enum class State { runs, waits, done };

// The warps at a barrier go on when as many have come as it waits for.
struct Barrier {
  u32 arrived = 0;
};

struct Block {
  std::vector<State> states;
  Barrier barriers[16];
  u32 current = 0;  // the warp that runs, for messages
};

static void arrive(Launch& launch, Block& block, Warp& w, bool waits) {
  if (w.barrier >= 16) throw Fault{-1, 0, "uses barrier " + std::to_string(w.barrier) + " of 16"};
  Barrier& barrier = block.barriers[w.barrier];
  block.states[w.index] = waits ? State::waits : State::runs;
  const u32 wanted = w.barrier_threads ? w.barrier_threads / kLanes : launch.warps.size();
  if (++barrier.arrived < wanted) return;
  barrier.arrived = 0;
  ++launch.epoch;
  for (Warp& other : launch.warps)
    if (block.states[other.index] == State::waits && other.barrier == w.barrier)
      block.states[other.index] = State::runs;
}

// Up to the next barrier, even where that opens at once: warps take turns.
static void run_warp(Launch& launch, Block& block, Warp& w) {
  block.current = w.index;
  Stop stop;
  do {
    stop = launch.kernel->run(w);
    if (stop != Stop::exited) arrive(launch, block, w, stop == Stop::barrier);
  } while (stop == Stop::arrived);
  if (stop == Stop::exited) block.states[w.index] = State::done;
}

static void run_block(Launch& launch, Block& block) {
  const size_t count = launch.warps.size();
  block.states.assign(count, State::runs);
  launch.epoch = 1;
  for (u32 i = 0; i < count; ++i) begin_warp(launch.warps[i], launch, i);
  begin_shared(launch.shared, launch.shared.bytes.size());
  const auto any = [&](State s) { return std::count(block.states.begin(), block.states.end(), s) > 0; };
  while (any(State::runs)) {
    for (size_t i = 0; i < count; ++i) {
      Warp& w = launch.warps[g_reversed ? count - 1 - i : i];
      if (block.states[w.index] == State::runs) run_warp(launch, block, w);
    }
  }
  if (any(State::waits)) {
    block.current =
        std::find(block.states.begin(), block.states.end(), State::waits) - block.states.begin();
    throw Fault{-1, 0,
                "waits at barrier " + std::to_string(launch.warps[block.current].barrier) +
                    " for ever: others never come"};
  }
}

static std::string text_of(const Launch& launch, const Block& block, const Fault& fault) {
  std::string text = std::string(launch.kernel->name) + ": block " + std::to_string(launch.at[0]) + "," +
                     std::to_string(launch.at[1]) + "," + std::to_string(launch.at[2]) + ", warp " +
                     std::to_string(block.current);
  if (fault.lane >= 0) text += ", lane " + std::to_string(fault.lane);
  if (fault.line) text += ", " + std::string(launch.kernel->file) + ":" + std::to_string(fault.line);
  return text + ": " + fault.what;
}

static std::string refusal(const Kernel& kernel, const unsigned grid[3], const unsigned block[3]) {
  const u64 threads = u64(block[0]) * block[1] * block[2];
  const std::string name = kernel.name;
  if (!grid[0] || !grid[1] || !grid[2]) return name + ": a grid of no blocks cannot be launched";
  if (grid[1] > 65535 || grid[2] > 65535) return name + ": the grid's y and z go to 65535";
  if (!threads || threads > 1024)
    return name + ": a block has 1 to 1024 threads, not " + std::to_string(threads);
  if (kernel.max_threads &&
      (kernel.exact_threads ? threads != kernel.max_threads : threads > kernel.max_threads))
    return name + ": is for blocks of " + std::to_string(kernel.max_threads) + " threads, not " +
           std::to_string(threads);
  return "";
}

static void copy_parameters(Launch& launch, void** arguments) {
  launch.parameters.assign(launch.kernel->parameter_bytes + 8, 0);
  for (u32 i = 0; i < launch.kernel->num_parameters; ++i) {
    const Parameter& parameter = launch.kernel->parameters[i];
    std::memcpy(launch.parameters.data() + parameter.offset, arguments[i], parameter.size);
  }
}

struct FreeAligned {
  void operator()(u8* memory) const { std::free(memory); }
};

static std::string run(const Kernel& kernel, const unsigned grid[3], const unsigned block[3],
                       unsigned shared, void** arguments) {
  std::string wrong = refusal(kernel, grid, block);
  if (!wrong.empty()) return wrong;
  Launch launch = {};
  launch.kernel = &kernel;
  launch.serial = ++g_serial;
  std::copy_n(grid, 3, launch.grid);
  std::copy_n(block, 3, launch.block);
  launch.shared.bytes.resize(size_t(shared) + kernel.static_shared);
  copy_parameters(launch, arguments);
  launch.warps.resize((block[0] * block[1] * block[2] + kLanes - 1) / kLanes);
  std::vector<std::unique_ptr<u8, FreeAligned>> registers;
  for (Warp& w : launch.warps) {
    const size_t bytes = (kernel.register_bytes + 63) / 64 * 64 + 64;
    registers.emplace_back(static_cast<u8*>(std::aligned_alloc(64, bytes)));
    std::memset(registers.back().get(), 0xa5, bytes);  // what a kernel never set is no number
    w.registers = registers.back().get();
  }
  const u32 blocks = grid[0] * grid[1] * grid[2];
  for (u32 i = 0; i < blocks; ++i) {
    launch.block_index = g_reversed ? blocks - 1 - i : i;
    launch.at[0] = launch.block_index % grid[0];
    launch.at[1] = launch.block_index / grid[0] % grid[1];
    launch.at[2] = launch.block_index / grid[0] / grid[1];
    Block state;
    try {
      run_block(launch, state);
    } catch (const Fault& fault) {
      return text_of(launch, state, fault);
    }
  }
  return "";
}

int launch(const Kernel* kernels, size_t count, const char* name, const unsigned grid[3],
           const unsigned block[3], unsigned shared, void** arguments, char* error, size_t size) {
  for (size_t i = 0; i < count; ++i) {
    if (std::strcmp(kernels[i].name, name) != 0) continue;
    const std::string wrong = run(kernels[i], grid, block, shared, arguments);
    if (error && size) std::snprintf(error, size, "%s", wrong.c_str());
    return wrong.empty() ? 0 : 1;
  }
  if (error && size) std::snprintf(error, size, "%s: no such kernel in the module", name);
  return 1;
}

}  // namespace ptx

void ptx_reverse(int reversed) {
  ptx::g_reversed = reversed != 0;
}
