// The kernels as the build made them (kernel_table.inc): names, arguments, tiles, resources.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_KERNEL_TABLE_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_KERNEL_TABLE_H_

#include <cstddef>
#include <cstdint>

#include "../moe_cuda.h"

namespace moe::cuda {

enum class Kernel : uint32_t {
#define KERNEL(name, letters) name,
#define MATRIX(...)
#define RESOURCES(...)
#define EXPERTS_OF_ROUTER(...)
#define ROWS_OF_TILE(...)
#define LARGEST_ROWS(...)
#define DECODE(...)
#include "kernel_table.inc"
#undef KERNEL
      count
};
constexpr size_t kKernels = size_t(Kernel::count);

struct KernelRow {
  const char* name;
  const char* letters;  // of its arguments: p pointer, i int32, f float
};
const KernelRow& row_of(Kernel kernel);

// How tiles.py tells weights apart.
enum class Stored : uint32_t { f32, f16, bf16, int8_row, int8, int4, int8_wide, int4_wide };

// A variant of a matrix kernel.
struct MatrixRow {
  Kernel kernel;
  Stored stored;
  RowFormat rows;
  bool gated;
  bool vector;     // rows begin at multiples of 16 bytes, and features come in 16s
  size_t block_m;  // rows of a tile; 0: a gemv, one assignment a block
};
// Null where there is none.  block_m 0 asks for the gemv, any other for the largest tile of up to so many
// rows; without `vector` there is one tile, whatever block_m asks for.
const MatrixRow* matrix_of(Stored stored, RowFormat rows, bool gated, bool vector, size_t block_m);

// The router for so many experts; Kernel::count where there are too many.
Kernel router_of(size_t num_experts);
size_t most_experts();

// Rows of a tile where an expert has so many assignments in the mean.
size_t rows_of_tile(double mean);

// Whether a few tokens go without dispatch (tiles.py says why).
bool decodes(size_t tokens, size_t top_k, size_t num_experts);

// What a launch needs on one SM.
struct Resources {
  unsigned threads, shared_bytes;
  unsigned block_n;  // of the matrix kernels
};

// The SM whose resources a launch on this compute capability has: its own, or 80, 0 where there is none.
// A device without code of its own runs sm_80's PTX, or for 8.x the code of a sibling.  Those have the
// tiles of sm_80 and no more shared memory (a test says so), whichever the driver takes.
int sm_for(int compute_capability);
const Resources& resources_of(Kernel kernel, int sm);

// The compiled kernels.
extern const unsigned char* const kImage;

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_KERNEL_TABLE_H_
