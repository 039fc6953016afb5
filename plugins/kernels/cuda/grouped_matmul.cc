// GroupedMatMul: rows, tile map, one grouped GEMM into float32, and the rows of no expert zeroed.
#include "combining.h"
#include "grouped_gemm.h"
#include "matrices.h"
#include "sorting.h"
#include "workspace.h"

namespace moe::cuda {
namespace {

struct Layout {
  void* rows;
  int32_t* tiles;
  float* product;
  size_t bytes;
};

Layout layout(const Matrices& weights, RowFormat row_format, Float type, size_t rows, void* workspace) {
  Regions regions(workspace);
  Layout l;
  const size_t row_bytes = weights.columns * bytes_of(row_format);
  l.rows = regions.take(are_rows(type, row_format, weights) ? 0 : rows * row_bytes);
  l.tiles = regions.take<int32_t>(kTileBytes * most_tiles(rows, weights.experts, kSmallestTile));
  l.product = regions.take<float>(rows * weights.rows * sizeof(float));
  l.bytes = regions.used();
  return l;
}

}  // namespace

const char* grouped_matmul_fault(const Matrices& weights, RowFormat row_format) {
  return matrices_fault(weights, row_format, "GroupedMatMul");
}

size_t grouped_matmul_workspace(const Matrices& weights, RowFormat row_format, Float type, size_t rows) {
  return layout(weights, row_format, type, rows, nullptr).bytes;
}

const char* grouped_matmul(const Device* device, const Matrices& weights, const float* bias,
                           RowFormat row_format, Float type, const void* x_sorted,
                           const int32_t* expert_offsets, size_t rows, void* y_sorted, void* workspace,
                           Stream stream) {
  if (const char* why = grouped_matmul_fault(weights, row_format)) return why;
  if (!fits(rows + 1024)) return says("GroupedMatMul: %zu rows do not fit into int32", rows);
  if (!rows) return nullptr;
  const Layout l = layout(weights, row_format, type, rows, workspace);
  const void* x = x_sorted;
  if (!are_rows(type, row_format, weights)) {
    const char* why = convert_rows(device, type, row_format, x_sorted, nullptr, rows, weights.columns, 1,
                                   wants_apart(weights), l.rows, stream);
    if (why) return why;
    x = l.rows;
  }
  const size_t wanted = rows_of_tile(double(rows) / double(weights.experts));
  const MatrixRow& kernel = variant(weights, row_format, false, wanted, x, bias);
  const size_t tiles = most_tiles(rows, weights.experts, kernel.block_m);
  if (const char* why = map_tiles(device, expert_offsets, rows, weights.experts, kernel.block_m, tiles,
                                  l.tiles, stream))
    return why;
  const PlainGemm plain{x, bias, nullptr, nullptr, l.tiles, l.product, tiles, 0, false};
  if (const char* why = launch_plain(device, kernel, weights, plain, stream)) return why;
  const Combining owned{l.product, nullptr, nullptr, nullptr, expert_offsets,
                        rows,      1,       weights.rows, weights.experts};
  return sum_rows(device, owned, type, false, y_sorted, stream);
}

}  // namespace moe::cuda
