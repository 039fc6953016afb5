// Arguments in the order of the Triton sources; device.cc checks their types against the build's table.
#include "grouped_gemm.h"

namespace moe::cuda {
namespace {

Grid tiled(const Device* device, const MatrixRow& kernel, size_t num_tiles, size_t features) {
  return {num_tiles * blocks(features, resources_of(kernel.kernel, device->sm).block_n)};
}

Grid by_assignment(const Device* device, const MatrixRow& kernel, size_t assignments, size_t features) {
  return {assignments, blocks(features, resources_of(kernel.kernel, device->sm).block_n)};
}

}  // namespace

const char* launch_plain(const Device* device, const MatrixRow& kernel, const Matrices& m,
                         const PlainGemm& g, Stream stream) {
  const Argument arguments[] = {g.x,
                                m.values,
                                m.scales,
                                g.bias,
                                g.topk_weights,
                                g.order,
                                g.tiles,
                                g.y,
                                m.columns,
                                row_elements(m),
                                m.rows,
                                scale_blocks(m),
                                columns_of_scale(m),
                                g.num_tiles,
                                g.gather,
                                g.scatter,
                                g.bias != nullptr,
                                g.topk_weights != nullptr};
  const Grid grid = tiled(device, kernel, g.num_tiles, m.rows);
  return launch(device, kernel.kernel, grid, stream, arguments);
}

const char* launch_gated(const Device* device, const MatrixRow& kernel, const Matrices& m,
                         const GatedGemm& g, const GatedEpilogue& e, Stream stream) {
  const size_t features = m.rows / 2;
  const Argument arguments[] = {g.x,
                                m.values,
                                m.scales,
                                g.bias,
                                g.order,
                                g.tiles,
                                g.y,
                                m.columns,
                                row_elements(m),
                                features,
                                scale_blocks(m),
                                columns_of_scale(m),
                                g.num_tiles,
                                g.divisor,
                                int32_t(e.activation),
                                e.alpha,
                                e.limit,
                                g.bias != nullptr};
  const Grid grid = tiled(device, kernel, g.num_tiles, features);
  return launch(device, kernel.kernel, grid, stream, arguments);
}

const char* launch_plain(const Device* device, const MatrixRow& kernel, const Matrices& m, const Gemv& g,
                         Stream stream) {
  const Argument arguments[] = {g.x,
                                m.values,
                                m.scales,
                                g.bias,
                                g.topk_weights,
                                g.topk_ids,
                                g.y,
                                m.columns,
                                row_elements(m),
                                m.rows,
                                scale_blocks(m),
                                columns_of_scale(m),
                                m.experts,
                                g.divisor,
                                g.bias != nullptr,
                                g.topk_weights != nullptr};
  const Grid grid = by_assignment(device, kernel, g.assignments, m.rows);
  return launch(device, kernel.kernel, grid, stream, arguments);
}

const char* launch_gated(const Device* device, const MatrixRow& kernel, const Matrices& m, const Gemv& g,
                         const GatedEpilogue& e, Stream stream) {
  const size_t features = m.rows / 2;
  const Argument arguments[] = {g.x,
                                m.values,
                                m.scales,
                                g.bias,
                                g.topk_ids,
                                g.y,
                                m.columns,
                                row_elements(m),
                                features,
                                scale_blocks(m),
                                columns_of_scale(m),
                                m.experts,
                                g.divisor,
                                int32_t(e.activation),
                                e.alpha,
                                e.limit,
                                g.bias != nullptr};
  const Grid grid = by_assignment(device, kernel, g.assignments, features);
  return launch(device, kernel.kernel, grid, stream, arguments);
}

}  // namespace moe::cuda
