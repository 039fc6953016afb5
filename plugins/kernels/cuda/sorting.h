// Assignments in the order of experts, and the tiles of a grouped GEMM over them.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_SORTING_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_SORTING_H_

#include <cstddef>
#include <cstdint>

#include "device.h"

namespace moe::cuda {

// Tiles of block_m rows are at most this many, however S rows fall on E experts.
constexpr size_t most_tiles(size_t rows, size_t num_experts, size_t block_m) {
  const size_t experts = rows < num_experts ? rows : num_experts;
  return (rows + experts * (block_m - 1)) / block_m;
}

constexpr size_t kTileBytes = 4 * sizeof(int32_t);

// tiles [num_tiles, 4] of expert_offsets [E+1], as tile_map.py says.
const char* map_tiles(const Device* device, const int32_t* expert_offsets, size_t rows,
                      size_t num_experts, size_t block_m, size_t num_tiles, int32_t* tiles,
                      Stream stream);

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_SORTING_H_
