// Combine: the inverse of order, then one sum for each token.
#include "combining.h"
#include "workspace.h"

namespace moe::cuda {

const char* sum_rows(const Device* device, const Combining& c, Float type, bool rows_are_of_type,
                     void* y, Stream stream) {
  constexpr Kernel of_float32[] = {Kernel::combine_fp32_fp32, Kernel::combine_fp32_fp16,
                                   Kernel::combine_fp32_bf16};
  constexpr Kernel of_same[] = {Kernel::combine_fp32_fp32, Kernel::combine_fp16_fp16,
                                Kernel::combine_bf16_bf16};
  const Kernel kernel = (rows_are_of_type ? of_same : of_float32)[size_t(type)];
  const Argument arguments[] = {c.rows,
                                c.index,
                                c.weights,
                                c.ids,
                                c.offsets,
                                y,
                                c.top_k,
                                c.columns,
                                c.num_experts,
                                c.tokens * c.top_k,
                                c.index != nullptr,
                                c.weights != nullptr,
                                c.ids != nullptr,
                                c.offsets != nullptr};
  return launch(device, kernel, {c.tokens, blocks(c.columns, 512)}, stream, arguments);
}

size_t combine_workspace(size_t assignments) {
  Regions regions(nullptr);
  regions.take(assignments * sizeof(int32_t));
  return regions.used();
}

const char* combine(const Device* device, Float type, const void* y_sorted, const int32_t* order,
                    const float* topk_weights, size_t tokens, size_t top_k, size_t columns, void* y,
                    void* workspace, Stream stream) {
  const size_t assignments = tokens * top_k;
  if (!fits(assignments + 1024) || !fits(columns + 512))
    return says("Combine: %zu rows of %zu columns do not fit into int32", assignments, columns);
  auto* index = Regions(workspace).take<int32_t>(assignments * sizeof(int32_t));
  const Grid grid{blocks(assignments, 1024)};
  const Argument nowhere[] = {index, assignments, int32_t(-1)};
  if (const char* why = launch(device, Kernel::fill, grid, stream, nowhere)) return why;
  const Argument places[] = {order, index, assignments};
  if (const char* why = launch(device, Kernel::invert, grid, stream, places)) return why;
  const Combining all{y_sorted, index, topk_weights, nullptr, nullptr, tokens, top_k, columns, 0};
  return sum_rows(device, all, type, true, y, stream);
}

}  // namespace moe::cuda
