// Dispatch: counts, then places; both one block for each expert and one for ids outside [0, E).
#include "sorting.h"
#include "workspace.h"

namespace moe::cuda {

size_t dispatch_workspace(size_t, size_t num_experts) {
  Regions regions(nullptr);
  regions.take((num_experts + 1) * sizeof(int32_t));
  return regions.used();
}

const char* dispatch(const Device* device, const int32_t* topk_ids, size_t assignments,
                     size_t num_experts, int32_t* order, int32_t* expert_offsets, void* workspace,
                     Stream stream) {
  // Chunks run up to a multiple of 1024, which has to fit as well.
  if (!fits(assignments + 1024) || !fits(num_experts + 1))
    return says("Dispatch: %zu assignments to %zu experts do not fit into int32", assignments,
                num_experts);
  auto* counts = Regions(workspace).take<int32_t>((num_experts + 1) * sizeof(int32_t));
  const Argument to_count[] = {topk_ids, counts, assignments, num_experts};
  const Grid grid{num_experts + 1};
  if (const char* why = launch(device, Kernel::dispatch_count, grid, stream, to_count)) return why;
  const Argument to_scatter[] = {topk_ids, counts, order, expert_offsets, assignments, num_experts};
  return launch(device, Kernel::dispatch_scatter, grid, stream, to_scatter);
}

const char* map_tiles(const Device* device, const int32_t* expert_offsets, size_t rows,
                      size_t num_experts, size_t block_m, size_t num_tiles, int32_t* tiles,
                      Stream stream) {
  const Argument arguments[] = {expert_offsets, tiles, rows, num_experts, num_tiles, block_m};
  return launch(device, Kernel::tile_map, {num_experts + 1}, stream, arguments);
}

}  // namespace moe::cuda
