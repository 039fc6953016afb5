// Experts: rows, then the first matrix and its activation, the second one, and the sum for each token.
// A few tokens go by gemv, assignment by assignment; more of them by grouped GEMMs over sorted rows.
#include "combining.h"
#include "grouped_gemm.h"
#include "matrices.h"
#include "sorting.h"
#include "workspace.h"

namespace moe::cuda {
namespace {

// The matrices that tokens meet.
const Matrices& first_of(const ExpertsSpec& spec) { return spec.up ? *spec.up : *spec.down; }

bool are_rows(const ExpertsSpec& spec) {
  return !spec.weight_on_input && are_rows(spec.type, spec.row_format, first_of(spec));
}

// Every region grows with tokens and none is left out for a way of computing, so what T tokens need is
// enough for fewer.
struct Layout {
  void* rows;        // [T or S, H] in the row format, where x is not that
  int32_t* order;    // [S]
  int32_t* offsets;  // [E+1]
  int32_t* tiles;    // [tiles, 4]
  void* sorting;     // dispatch's own
  float* hidden;     // [S, I] before an activation without a gate
  void* activated;   // [S, I] in the row format
  float* slots;      // [S, Hout] by assignment
  size_t bytes;
};

Layout layout(const ExpertsSpec& spec, size_t tokens, size_t top_k, void* workspace) {
  const size_t assignments = tokens * top_k, experts = spec.down->experts;
  const size_t inner = spec.up ? spec.down->columns : 0;
  const size_t rows = are_rows(spec) ? 0 : spec.weight_on_input ? assignments : tokens;
  const size_t row_bytes = bytes_of(spec.row_format);
  Regions regions(workspace);
  Layout l;
  l.rows = regions.take(rows * first_of(spec).columns * row_bytes);
  l.order = regions.take<int32_t>(assignments * sizeof(int32_t));
  l.offsets = regions.take<int32_t>((experts + 1) * sizeof(int32_t));
  l.tiles = regions.take<int32_t>(kTileBytes * most_tiles(assignments, experts, kSmallestTile));
  l.sorting = regions.take(dispatch_workspace(assignments, experts));
  l.hidden = regions.take<float>(spec.gated ? 0 : assignments * inner * sizeof(float));
  l.activated = regions.take(assignments * inner * row_bytes);
  l.slots = regions.take<float>(assignments * spec.down->rows * sizeof(float));
  l.bytes = regions.used();
  return l;
}

// One call of experts(), with rows in their format.
struct Call {
  const Device* device;
  const ExpertsSpec& spec;
  const Layout& at;
  const int32_t* topk_ids;
  const float* topk_weights;  // null where they are on the input
  const void* rows;
  size_t tokens, top_k;
  size_t divisor;  // assignment a has row a / divisor
  Stream stream;

  size_t assignments() const { return tokens * top_k; }
};

GatedEpilogue epilogue(const ExpertsSpec& spec) { return {spec.activation, spec.alpha, spec.limit}; }

// by_id: rows are by assignment, else sorted by expert.
const char* activate(const Call& c, bool by_id) {
  const bool wide = c.spec.row_format == RowFormat::f32;
  const size_t columns = c.spec.down->columns;
  const Argument arguments[] = {c.at.hidden,
                                c.topk_ids,
                                c.at.offsets,
                                c.at.activated,
                                columns,
                                c.spec.down->experts,
                                int32_t(c.spec.activation),
                                by_id,
                                wants_apart(*c.spec.down)};
  return launch(c.device, wide ? Kernel::activate_rows_fp32 : Kernel::activate_rows_bf16,
                {c.assignments(), blocks(columns, 1024)}, c.stream, arguments);
}

const MatrixRow& kernel_of(const Call& c, bool is_up, size_t block_m) {
  const ExpertsSpec& spec = c.spec;
  if (is_up) return variant(*spec.up, spec.row_format, spec.gated, block_m, c.rows, spec.up_bias);
  const void* rows = spec.up ? c.at.activated : c.rows;
  return variant(*spec.down, spec.row_format, false, block_m, rows, spec.down_bias);
}

// ------------------------------------------------------------------------------- a few tokens

const char* up_by_assignment(const Call& c) {
  const ExpertsSpec& spec = c.spec;
  void* y = spec.gated ? c.at.activated : c.at.hidden;
  const Gemv gemv{c.rows, spec.up_bias, nullptr, c.topk_ids, y, c.assignments(), c.divisor};
  const MatrixRow& kernel = kernel_of(c, true, 0);
  if (spec.gated) return launch_gated(c.device, kernel, *spec.up, gemv, epilogue(spec), c.stream);
  if (const char* why = launch_plain(c.device, kernel, *spec.up, gemv, c.stream)) return why;
  return activate(c, true);
}

const char* by_assignment(const Call& c) {
  const ExpertsSpec& spec = c.spec;
  if (spec.up)
    if (const char* why = up_by_assignment(c)) return why;
  const void* rows = spec.up ? c.at.activated : c.rows;
  const size_t divisor = spec.up ? 1 : c.divisor;
  const Gemv gemv{rows,       spec.down_bias,  c.topk_weights, c.topk_ids,
                  c.at.slots, c.assignments(), divisor};
  return launch_plain(c.device, kernel_of(c, false, 0), *spec.down, gemv, c.stream);
}

// ------------------------------------------------------------------------------- many tokens

const char* map_tiles(const Call& c, size_t block_m, size_t* num_tiles) {
  *num_tiles = most_tiles(c.assignments(), c.spec.down->experts, block_m);
  return map_tiles(c.device, c.at.offsets, c.assignments(), c.spec.down->experts, block_m, *num_tiles,
                   c.at.tiles, c.stream);
}

const char* up_by_expert(const Call& c, const MatrixRow& kernel, size_t num_tiles) {
  const ExpertsSpec& spec = c.spec;
  if (spec.gated) {
    const GatedGemm gated{c.rows,         spec.up_bias, c.at.order, c.at.tiles,
                          c.at.activated, num_tiles,    c.divisor};
    return launch_gated(c.device, kernel, *spec.up, gated, epilogue(spec), c.stream);
  }
  const PlainGemm plain{c.rows,     spec.up_bias, nullptr,   c.at.order, c.at.tiles,
                        c.at.hidden, num_tiles,    c.divisor, false};
  if (const char* why = launch_plain(c.device, kernel, *spec.up, plain, c.stream)) return why;
  return activate(c, false);
}

const char* by_expert(const Call& c) {
  const ExpertsSpec& spec = c.spec;
  const size_t experts = spec.down->experts;
  if (const char* why = dispatch(c.device, c.topk_ids, c.assignments(), experts, c.at.order,
                                 c.at.offsets, c.at.sorting, c.stream))
    return why;
  const size_t wanted = rows_of_tile(double(c.assignments()) / double(experts));
  size_t mapped = 0, num_tiles = 0;
  if (spec.up) {
    const MatrixRow& kernel = kernel_of(c, true, wanted);
    mapped = kernel.block_m;
    if (const char* why = map_tiles(c, mapped, &num_tiles)) return why;
    if (const char* why = up_by_expert(c, kernel, num_tiles)) return why;
  }
  const MatrixRow& kernel = kernel_of(c, false, wanted);
  if (kernel.block_m != mapped)
    if (const char* why = map_tiles(c, kernel.block_m, &num_tiles)) return why;
  const void* rows = spec.up ? c.at.activated : c.rows;
  const size_t gather = spec.up ? 0 : c.divisor;
  const PlainGemm plain{rows,       spec.down_bias, c.topk_weights, c.at.order, c.at.tiles,
                        c.at.slots, num_tiles,      gather,         true};
  return launch_plain(c.device, kernel, *spec.down, plain, c.stream);
}

const char* sizes_fault(const ExpertsSpec& spec, size_t tokens, size_t top_k) {
  // Some kernels count up to the next multiple of 1024.
  if (top_k && fits(tokens) && fits(top_k) && fits(tokens * top_k + 1024)) return nullptr;
  return says("Experts: %zu tokens of %zu experts out of %zu each do not fit into int32", tokens, top_k,
              spec.down->experts);
}

}  // namespace

const char* experts_fault(const ExpertsSpec& spec) {
  if (!spec.down) return says("Experts: an expert without a matrix");
  if (const char* why = matrices_fault(*spec.down, spec.row_format, "Experts, down")) return why;
  if (spec.type > Float::bf16) return says("Experts: unknown type of tokens %u", unsigned(spec.type));
  if (spec.activation > Activation::swiglu_clamped)
    return says("Experts: unknown activation %d", int(spec.activation));
  if (spec.activation == Activation::swiglu_clamped && !(spec.gated && spec.up))
    return says("Experts: swiglu_clamped needs a gate");
  if (!spec.up) {
    if (!spec.gated && !spec.up_bias) return nullptr;
    return says("Experts: a gate or an up_bias without the matrix up");
  }
  if (const char* why = matrices_fault(*spec.up, spec.row_format, "Experts, up")) return why;
  if (spec.up->format != spec.down->format)
    return says("Experts: up and down are stored in two formats");
  if (spec.up->experts != spec.down->experts)
    return says("Experts: up has %zu experts, down %zu", spec.up->experts, spec.down->experts);
  const size_t inner = spec.down->columns, rows = spec.gated ? 2 * inner : inner;
  if (spec.up->rows != rows)
    return says("Experts: up has %zu rows where down has %zu columns%s", spec.up->rows, inner,
                spec.gated ? " and there is a gate" : "");
  return nullptr;
}

size_t experts_workspace(const ExpertsSpec& spec, size_t tokens, size_t top_k) {
  return layout(spec, tokens, top_k, nullptr).bytes;
}

const char* experts(const Device* device, const ExpertsSpec& spec, const void* x,
                    const int32_t* topk_ids, const float* topk_weights, size_t tokens, size_t top_k,
                    void* y, void* workspace, Stream stream) {
  if (const char* why = experts_fault(spec)) return why;
  if (!tokens) return nullptr;
  if (const char* why = sizes_fault(spec, tokens, top_k)) return why;
  const Layout at = layout(spec, tokens, top_k, workspace);
  const bool on_input = spec.weight_on_input;
  Call call{device, spec,   at,    topk_ids, on_input ? nullptr : topk_weights,
            x,      tokens, top_k, top_k,    stream};
  if (!are_rows(spec)) {
    const size_t count = on_input ? tokens * top_k : tokens;
    const float* weights = on_input ? topk_weights : nullptr;
    const size_t divisor = on_input ? top_k : 1;
    const char* why = convert_rows(device, spec.type, spec.row_format, x, weights, count,
                                   first_of(spec).columns, divisor, wants_apart(first_of(spec)), at.rows,
                                   stream);
    if (why) return why;
    call.rows = at.rows;
    call.divisor = on_input ? 1 : top_k;
  }
  const bool few = decodes(tokens, top_k, spec.down->experts);
  if (const char* why = few ? by_assignment(call) : by_expert(call)) return why;
  const Combining all{at.slots, nullptr, nullptr, topk_ids, nullptr, tokens, top_k, spec.down->rows,
                      spec.down->experts};
  return sum_rows(device, all, spec.type, false, y, stream);
}

}  // namespace moe::cuda
