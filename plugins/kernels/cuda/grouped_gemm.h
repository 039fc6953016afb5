// Launches of the matrix kernels: the arguments of gemm_gated.py, gemm_plain.py and gemv.py by name.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_GROUPED_GEMM_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_GROUPED_GEMM_H_

#include "matrices.h"

namespace moe::cuda {

// A workspace has room for tiles of at least so many rows.
constexpr size_t kSmallestTile = 16;

struct GatedEpilogue {
  Activation activation;
  float alpha, limit;
};

// Rows sorted by expert, in tiles of the tile map.
struct PlainGemm {
  const void* x;
  const float *bias, *topk_weights;  // or null
  const int32_t *order, *tiles;
  float* y;
  size_t num_tiles;
  size_t gather;  // sorted row s reads row order[s] / gather of x; 0: row s
  bool scatter;   // and is written to order[s]; else to s
};
const char* launch_plain(const Device* device, const MatrixRow& kernel, const Matrices& matrices,
                         const PlainGemm& gemm, Stream stream);

struct GatedGemm {
  const void* x;
  const float* bias;
  const int32_t *order, *tiles;
  void* y;
  size_t num_tiles, divisor;
};
const char* launch_gated(const Device* device, const MatrixRow& kernel, const Matrices& matrices,
                         const GatedGemm& gemm, const GatedEpilogue& epilogue, Stream stream);

// Rows by assignment, one after the other.
struct Gemv {
  const void* x;
  const float *bias, *topk_weights;  // or null; a gated one has no weights
  const int32_t* topk_ids;
  void* y;
  size_t assignments, divisor;
};
const char* launch_plain(const Device* device, const MatrixRow& kernel, const Matrices& matrices,
                         const Gemv& gemv, Stream stream);
const char* launch_gated(const Device* device, const MatrixRow& kernel, const Matrices& matrices,
                         const Gemv& gemv, const GatedEpilogue& epilogue, Stream stream);

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_GROUPED_GEMM_H_
