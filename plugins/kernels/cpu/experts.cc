// Experts and its parts: which rows meet which panels, and in what order (docs/ops.md).
//
// A layer is two products.  Tasks of the first are (some rows of one expert, some panels of its up
// matrix, four at a time): their epilogue activates and prepares the rows of the second.  Tasks of the
// second leave weighted rows in expert order, and a last pass sums them token by token in order of k.
// A task reads rows through pointers; they are copied into expert order only for levels that like even
// rows.
//
// With few tokens each panel is read once from memory, and neighbouring tasks share one expert.
// With many, four panels (256 KiB of bfloat16 for H = 2048) stay in the L2 while all rows pass.
#include <algorithm>
#include <cstring>

#include "isa.h"
#include "panels.h"
#include "tasks.h"

namespace moe {
namespace {

constexpr size_t kTaskPanels = 4, kTaskColumns = kTaskPanels * kPanelRows;
constexpr size_t kTileRows = 64;    // rows of a product that lie in one task's stack
constexpr size_t kTaskRows = 256;   // more than this and an expert's rows are split among tasks
// With more tasks than this each takes several times four panels.  What a task asks of memory in advance
// lies behind its own panels, and is another core's as often as not.
constexpr size_t kEnoughTasks = 128;
// A single row reads more than it computes: up to four times four panels are one stream, as long as
// there are as many tasks as this.
constexpr size_t kEnoughStreams = 16, kMostOfStream = 4;
constexpr size_t kManyTokens = 16;  // from here on rows may be worth a copy

// Rows [first, first + count) of the expert order, all of one expert.
struct RowBlock {
  int32_t expert;
  int32_t first, count;
};

size_t max_blocks(size_t experts, size_t rows) {
  return std::min(experts, rows) + rows / kTaskRows;
}

size_t list_blocks(const int32_t* offsets, size_t experts, RowBlock* blocks) {
  size_t n = 0;
  for (size_t e = 0; e < experts; ++e) {
    const int32_t rows = offsets[e + 1] - offsets[e];
    if (rows <= 0) continue;
    const int32_t parts = (rows + int32_t(kTaskRows) - 1) / int32_t(kTaskRows);
    for (int32_t part = 0, first = offsets[e]; part < parts; ++part) {
      const int32_t count = rows / parts + (part < rows % parts ? 1 : 0);
      blocks[n++] = {int32_t(e), first, count};
      first += count;
    }
  }
  return n;
}

// Every block of rows times every panel of its expert.  row(i) is the prepared row at place i of
// the expert order; done(block, first, rows, first_panel, panels, tile) gets their products,
// [rows][kTaskColumns], for `rows` rows from place `first` on.
template <class Row, class Done>
void multiply_blocks(const Isa* isa, const Panels& weights, RowFormat format,
                     const RowBlock* blocks, size_t num_blocks, size_t num_rows,
                     const Parallel& parallel, const Row& row, const Done& done) {
  const size_t chunks = (weights.panels + kTaskPanels - 1) / kTaskPanels;
  const bool alone = num_rows == num_blocks;  // each a single row
  const size_t most = std::clamp<size_t>(num_blocks * chunks / (alone ? kEnoughStreams : kEnoughTasks),
                                         1, alone ? kMostOfStream : chunks);
  const size_t tasks_each = (chunks + most - 1) / most;  // of a block
  const size_t products = num_rows * weights.columns * weights.panels * kPanelRows;
  const size_t tasks = num_blocks * tasks_each;
  if (!tasks) return;
  for_each(parallel, tasks, products / tasks + 1, [&](size_t task) {
    const RowBlock& block = blocks[task / tasks_each];
    const size_t part = task % tasks_each, rows_end = size_t(block.first) + size_t(block.count);
    const size_t panels_end = std::min((part + 1) * most * kTaskPanels, weights.panels);
    alignas(64) float tile[kTileRows * kTaskColumns];
    const void* rows[kTileRows];
    const size_t step = block.count == 1 ? kMostOfStream * kTaskPanels : kTaskPanels;
    for (size_t panel = part * most * kTaskPanels; panel < panels_end; panel += step) {
      const size_t panels = std::min(step, panels_end - panel);
      const uint8_t* at = weights.data + size_t(block.expert) * weights.expert_bytes +
                          panel * weights.panel_bytes;
      for (size_t first = size_t(block.first); first < rows_end; first += kTileRows) {
        const size_t count = std::min(kTileRows, rows_end - first);
        for (size_t r = 0; r < count; ++r) rows[r] = row(first + r);
        isa->multiply(weights, format, at, panels, rows, count, tile, kTaskColumns);
        for (size_t p = 0; p < panels; p += kTaskPanels)
          done(block, first, count, panel + p, std::min(kTaskPanels, panels - p),
               tile + p * kPanelRows);
      }
    }
  });
}

// out [row_bytes] of x [columns], both of place i.
template <class Source, class Target>
void prepare_rows(const Isa* isa, const Panels& weights, RowFormat format, size_t count,
                  const Parallel& parallel, const Source& source, const Target& target) {
  constexpr size_t kRowsPerTask = 8;
  const size_t tasks = (count + kRowsPerTask - 1) / kRowsPerTask;
  // To round a number costs about as much as eight products.
  for_each(parallel, tasks, kRowsPerTask * weights.columns * 8, [&](size_t task) {
    const size_t end = std::min(count, (task + 1) * kRowsPerTask);
    for (size_t i = task * kRowsPerTask; i < end; ++i)
      isa->prepare(weights.format, format, weights.columns, 0, weights.columns, source(i),
                   target(i));
  });
}

// y [T, N]: for each token the rows at its assignments' places, summed in order of k.  Places from
// num_rows on belong to no expert.
void sum_by_token(const float* rows, const int32_t* place, size_t num_rows, size_t tokens,
                  size_t top_k, size_t columns, float* y, const Parallel& parallel) {
  for_each(parallel, tokens, top_k * columns, [&](size_t t) {
    float* sum = y + t * columns;
    std::memset(sum, 0, columns * sizeof(float));
    for (size_t k = 0; k < top_k; ++k) {
      const size_t at = size_t(place[t * top_k + k]);
      if (at >= num_rows) continue;
      const float* row = rows + at * columns;
      for (size_t c = 0; c < columns; ++c) sum[c] += row[c];
    }
  });
}

// ---------------------------------------------------------------------------------- Experts

// Scratch of one call of experts(), in the order in which it is filled.
struct Workspace {
  int32_t *order, *offsets, *place;
  RowBlock* blocks;
  uint8_t *x_rows, *inner_rows;
  uint8_t* sorted;           // x_rows in expert order, or null where they are read where they lie
  float *weighted, *y_rows;  // `weighted`: tokens times their weights
  size_t x_bytes, inner_bytes;
  bool x_is_plain, x_is_sorted;
  size_t used;

  Workspace(const Isa* isa, const ExpertsSpec& spec, size_t tokens, size_t top_k, void* scratch) {
    const size_t assignments = tokens * top_k, experts = spec.down->experts;
    const Panels& first = spec.up ? *spec.up : *spec.down;
    Carver carver(scratch);
    order = carver.take<int32_t>(assignments);
    offsets = carver.take<int32_t>(experts + 1);
    place = carver.take<int32_t>(assignments);
    blocks = carver.take<RowBlock>(max_blocks(experts, assignments));
    x_bytes = isa->row_bytes(first.format, spec.row_format, first.columns);
    x_is_plain = isa->row_is_plain(first.format, spec.row_format, first.columns);
    const size_t x_count = spec.weight_on_input ? assignments : tokens;
    x_rows = carver.take<uint8_t>(x_is_plain ? 0 : x_count * x_bytes);
    x_is_sorted = isa->likes_even_rows && tokens >= kManyTokens && !spec.weight_on_input && !x_is_plain;
    sorted = carver.take<uint8_t>(x_is_sorted ? assignments * x_bytes : 0);
    weighted = carver.take<float>(spec.weight_on_input ? assignments * first.columns : 0);
    inner_bytes = isa->row_bytes(spec.down->format, spec.row_format, spec.down->columns);
    inner_rows = carver.take<uint8_t>(spec.up ? assignments * inner_bytes : 0);
    y_rows = carver.take<float>(assignments * spec.down->rows);
    used = carver.used();
  }
};

// The bias of up's row `row` of `inner`: a gate's, or a value's.
float up_bias_at(const ExpertsSpec& spec, size_t expert, bool value, size_t i) {
  const size_t rows = spec.up->rows, inner = spec.up->gated ? rows / 2 : rows;
  const size_t row = !spec.up->gated ? i : spec.interleaved ? 2 * i + value : value * inner + i;
  return spec.up_bias[expert * rows + row];
}

// Bias and activation of one row of a task's products: `panels` panels become `columns` numbers of
// the expert's inner row, from column `first` on.
void activate_row(const Isa* isa, const ExpertsSpec& spec, size_t expert, size_t first,
                  size_t panels, size_t columns, float* tile, float* out) {
  const size_t step = spec.up->gated ? 2 : 1;
  for (size_t p = 0; p < panels; p += step) {
    float* gate = tile + p * kPanelRows;
    float* value = spec.up->gated ? gate + kPanelRows : nullptr;
    const size_t at = p / step * kPanelRows;
    for (size_t i = 0; spec.up_bias && i < kPanelRows && at + i < columns; ++i) {
      gate[i] += up_bias_at(spec, expert, false, first + at + i);
      if (value) value[i] += up_bias_at(spec, expert, true, first + at + i);
    }
    isa->activate(spec.activation, spec.alpha, spec.limit, gate, value, kPanelRows, out + at);
  }
}

}  // namespace

const char* experts_fault(const ExpertsSpec& spec) {
  if (!spec.down) return "down is missing";
  if (spec.down->gated) return "down is packed as a gated matrix";
  const bool gated = spec.up && spec.up->gated;
  if (spec.activation == Activation::swiglu_clamped && !gated)
    return "activation swiglu_clamped needs a gate";
  if (!spec.up && spec.activation != Activation::identity)
    return "a single linear layer per expert has activation identity";
  if (spec.up && spec.up->experts != spec.down->experts)
    return "up and down have different numbers of experts";
  const size_t inner = spec.up ? spec.up->rows / (gated ? 2 : 1) : spec.down->columns;
  if (inner != spec.down->columns) return "the rows of up are not the columns of down";
  for (const Panels* weights : {spec.up, spec.down})
    if (weights && is_integer(spec.row_format) && !is_quantized(weights->format))
      return "row_format int8 or int16 goes with weights in int8 or int4";
  return nullptr;
}

size_t experts_scratch(const Isa* isa, const ExpertsSpec& spec, size_t tokens, size_t top_k) {
  return Workspace(isa, spec, tokens, top_k, nullptr).used;
}

void experts(const Isa* isa, const ExpertsSpec& spec, const float* x, const int32_t* topk_ids,
             const float* topk_weights, size_t tokens, size_t top_k, float* y, void* scratch,
             const Parallel& parallel) {
  const size_t assignments = tokens * top_k, num_experts = spec.down->experts;
  const size_t output_size = spec.down->rows;
  const Panels& first = spec.up ? *spec.up : *spec.down;
  const size_t hidden_size = first.columns;
  const Workspace work(isa, spec, tokens, top_k, scratch);

  dispatch(topk_ids, assignments, num_experts, work.order, work.offsets);
  for (size_t s = 0; s < assignments; ++s) work.place[work.order[s]] = int32_t(s);
  const size_t num_rows = size_t(work.offsets[num_experts]);
  const size_t num_blocks = list_blocks(work.offsets, num_experts, work.blocks);

  // The rows that enter, by place in expert order or by token.
  const auto token_of = [&](size_t at) { return size_t(work.order[at]) / top_k; };
  if (spec.weight_on_input)
    for_each(parallel, num_rows, hidden_size, [&](size_t at) {
      const float weight = topk_weights[work.order[at]];
      const float* from = x + token_of(at) * hidden_size;
      for (size_t c = 0; c < hidden_size; ++c)
        work.weighted[at * hidden_size + c] = from[c] * weight;
    });
  const float* entering = spec.weight_on_input ? work.weighted : x;
  if (!work.x_is_plain)
    prepare_rows(
        isa, first, spec.row_format, spec.weight_on_input ? num_rows : tokens, parallel,
        [&](size_t i) { return entering + i * hidden_size; },
        [&](size_t i) { return work.x_rows + i * work.x_bytes; });
  if (work.x_is_sorted)
    for_each(parallel, num_rows, work.x_bytes, [&](size_t at) {
      const uint8_t* row = work.x_rows + token_of(at) * work.x_bytes;
      std::memcpy(work.sorted + at * work.x_bytes, row, work.x_bytes);
    });
  const auto entering_row = [&](size_t at) -> const void* {
    if (work.x_is_sorted) return work.sorted + at * work.x_bytes;
    const size_t i = spec.weight_on_input ? at : token_of(at);
    return work.x_is_plain ? static_cast<const void*>(entering + i * hidden_size)
                           : work.x_rows + i * work.x_bytes;
  };
  const auto inner_row = [&](size_t at) { return work.inner_rows + at * work.inner_bytes; };

  const auto leave = [&](const RowBlock& block, size_t from, size_t count, size_t panel,
                         size_t panels, const float* tile) {
    const size_t column = panel * kPanelRows;
    const size_t columns = std::min(panels * kPanelRows, output_size - column);
    const float* bias =
        spec.down_bias ? spec.down_bias + size_t(block.expert) * output_size + column : nullptr;
    for (size_t r = 0; r < count; ++r) {
      const float* product = tile + r * kTaskColumns;
      float* out = work.y_rows + (from + r) * output_size + column;
      const float weight = spec.weight_on_input ? 1.0f : topk_weights[work.order[from + r]];
      for (size_t c = 0; c < columns; ++c) out[c] = (bias ? product[c] + bias[c] : product[c]) * weight;
    }
  };

  if (spec.up) {
    const size_t inner_size = spec.down->columns, step = spec.up->gated ? 2 : 1;
    multiply_blocks(
        isa, *spec.up, spec.row_format, work.blocks, num_blocks, num_rows, parallel, entering_row,
        [&](const RowBlock& block, size_t from, size_t count, size_t panel, size_t panels,
            float* tile) {
          const size_t column = panel / step * kPanelRows;
          const size_t columns = std::min(panels / step * kPanelRows, inner_size - column);
          alignas(64) float activated[kTaskColumns];
          for (size_t r = 0; r < count; ++r) {
            activate_row(isa, spec, size_t(block.expert), column, panels, columns,
                         tile + r * kTaskColumns, activated);
            isa->prepare(spec.down->format, spec.row_format, inner_size, column, columns,
                         activated, inner_row(from + r));
          }
        });
    multiply_blocks(isa, *spec.down, spec.row_format, work.blocks, num_blocks, num_rows, parallel,
                    inner_row, leave);
  } else {
    multiply_blocks(isa, *spec.down, spec.row_format, work.blocks, num_blocks, num_rows, parallel,
                    entering_row, leave);
  }
  sum_by_token(work.y_rows, work.place, num_rows, tokens, top_k, output_size, y, parallel);
}

// ---------------------------------------------------------------------------------- its parts

void dispatch(const int32_t* topk_ids, size_t assignments, size_t num_experts, int32_t* order,
              int32_t* expert_offsets) {
  const auto is_here = [&](int32_t id) { return id >= 0 && size_t(id) < num_experts; };
  std::fill(expert_offsets, expert_offsets + num_experts + 1, 0);
  for (size_t s = 0; s < assignments; ++s)
    if (is_here(topk_ids[s])) ++expert_offsets[topk_ids[s] + 1];
  for (size_t e = 0; e < num_experts; ++e) expert_offsets[e + 1] += expert_offsets[e];
  // Each expert's offset moves to its end while its assignments are laid down, then back.
  int32_t elsewhere = expert_offsets[num_experts];
  for (size_t s = 0; s < assignments; ++s) {
    int32_t& next = is_here(topk_ids[s]) ? expert_offsets[topk_ids[s]] : elsewhere;
    order[next++] = int32_t(s);
  }
  for (size_t e = num_experts; e > 0; --e) expert_offsets[e] = expert_offsets[e - 1];
  expert_offsets[0] = 0;
}

namespace {

struct GroupedWorkspace {
  int32_t* offsets;
  RowBlock* blocks;
  uint8_t* x_rows;
  size_t x_bytes;
  bool x_is_plain;
  size_t used;

  GroupedWorkspace(const Isa* isa, const Panels& weights, RowFormat format, size_t rows,
                   void* scratch) {
    Carver carver(scratch);
    offsets = carver.take<int32_t>(weights.experts + 1);
    blocks = carver.take<RowBlock>(max_blocks(weights.experts, rows));
    x_bytes = isa->row_bytes(weights.format, format, weights.columns);
    x_is_plain = isa->row_is_plain(weights.format, format, weights.columns);
    x_rows = carver.take<uint8_t>(x_is_plain ? 0 : rows * x_bytes);
    used = carver.used();
  }
};

// y [rows, N]: rows [offsets[e], offsets[e+1]) of x times expert e's matrix, the rest 0.  The
// offsets in `work` never run backwards and stay within [0, rows].
void multiply_groups(const Isa* isa, const Panels& weights, const float* bias, RowFormat format,
                     const float* x, size_t rows, float* y, const GroupedWorkspace& work,
                     const Parallel& parallel) {
  const size_t columns = weights.rows;
  const size_t num_blocks = list_blocks(work.offsets, weights.experts, work.blocks);
  const size_t begin = size_t(work.offsets[0]), end = size_t(work.offsets[weights.experts]);
  std::fill(y, y + begin * columns, 0.0f);
  std::fill(y + end * columns, y + rows * columns, 0.0f);
  const auto plain = [&](size_t i) { return x + i * weights.columns; };
  const auto prepared = [&](size_t i) { return work.x_rows + i * work.x_bytes; };
  if (!work.x_is_plain) prepare_rows(isa, weights, format, rows, parallel, plain, prepared);
  multiply_blocks(
      isa, weights, format, work.blocks, num_blocks, end - begin, parallel,
      [&](size_t i) -> const void* {
        return work.x_is_plain ? static_cast<const void*>(plain(i)) : prepared(i);
      },
      [&](const RowBlock& block, size_t from, size_t count, size_t panel, size_t panels,
          const float* tile) {
        const size_t column = panel * kPanelRows;
        const size_t width = std::min(panels * kPanelRows, columns - column);
        const float* added = bias ? bias + size_t(block.expert) * columns + column : nullptr;
        for (size_t r = 0; r < count; ++r)
          for (size_t c = 0; c < width; ++c)
            y[(from + r) * columns + column + c] =
                added ? tile[r * kTaskColumns + c] + added[c] : tile[r * kTaskColumns + c];
      });
}

}  // namespace

size_t grouped_matmul_scratch(const Isa* isa, const Panels& weights, RowFormat row_format,
                              size_t rows) {
  return GroupedWorkspace(isa, weights, row_format, rows, nullptr).used;
}

void grouped_matmul(const Isa* isa, const Panels& weights, const float* bias, RowFormat row_format,
                    const float* x_sorted, const int32_t* expert_offsets, size_t rows,
                    float* y_sorted, void* scratch, const Parallel& parallel) {
  const GroupedWorkspace work(isa, weights, row_format, rows, scratch);
  int32_t reached = 0;
  for (size_t e = 0; e <= weights.experts; ++e) {
    reached = std::max(reached, std::min(expert_offsets[e], int32_t(rows)));
    work.offsets[e] = reached;
  }
  multiply_groups(isa, weights, bias, row_format, x_sorted, rows, y_sorted, work, parallel);
}

size_t linear_scratch(const Isa* isa, const Panels& weight, RowFormat row_format, size_t rows) {
  return grouped_matmul_scratch(isa, weight, row_format, rows);
}

void linear(const Isa* isa, const Panels& weight, const float* bias, RowFormat row_format,
            const float* x, size_t rows, float* y, void* scratch, const Parallel& parallel) {
  const int32_t offsets[2] = {0, int32_t(rows)};
  grouped_matmul(isa, weight, bias, row_format, x, offsets, rows, y, scratch, parallel);
}

size_t combine_scratch(size_t tokens, size_t top_k) {
  Carver carver(nullptr);
  carver.take<int32_t>(tokens * top_k);
  return carver.used();
}

void combine(const float* y_sorted, const int32_t* order, const float* topk_weights, size_t tokens,
             size_t top_k, size_t columns, float* y, void* scratch, const Parallel& parallel) {
  const size_t assignments = tokens * top_k;
  int32_t* place = Carver(scratch).take<int32_t>(assignments);
  std::fill(place, place + assignments, -1);
  for (size_t s = 0; s < assignments; ++s)
    if (order[s] >= 0 && size_t(order[s]) < assignments) place[order[s]] = int32_t(s);
  for_each(parallel, tokens, top_k * columns, [&](size_t t) {
    float* sum = y + t * columns;
    std::fill(sum, sum + columns, 0.0f);
    for (size_t k = 0; k < top_k; ++k) {
      const size_t assignment = t * top_k + k;
      if (place[assignment] < 0) continue;
      const float* row = y_sorted + size_t(place[assignment]) * columns;
      for (size_t c = 0; c < columns; ++c) sum[c] += row[c] * topk_weights[assignment];
    }
  });
}

}  // namespace moe
