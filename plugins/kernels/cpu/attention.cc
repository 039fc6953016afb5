// CachedAttention: rows that follow a cache, and the cache with their keys and values behind it
// (docs/ops.md).
//
// G = N / M heads of queries share a head of keys: their queries are rows of one block, so that keys
// and values are read once for all of them.  Tasks are (some rows of one head of keys); where that
// is all of them, as when one token follows, its keys are shared out among tasks as well, and what
// these have mixed is joined afterwards, in order.  Scores are never held for more than a block of
// keys, and keys that no row of a task sees are not read (Dao et al., FlashAttention, 2022).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "isa.h"
#include "panels.h"
#include "tasks.h"

namespace moe {
namespace {

constexpr float kNothing = -INFINITY;

// Rows of a task: whole tiles of 6 and of 12.  Keys are turned once for them, and their scores, 48 KiB
// for a block of keys, stay in an L2.
constexpr size_t kTaskRows = 96;
// Keys of a task where all rows are in one: 4 blocks, so that a cache of 1024 tokens is 2 tasks for
// each head of keys.
constexpr size_t kTaskKeys = 4 * kAttentionKeys;
// Tasks that run at once have scratch of their own; more than these take turns.
constexpr size_t kWorkers = 32;

// How the work is shared out: by sizes alone, so that results do not depend on threads.
struct Shares {
  size_t group, keys, rows;                       // G, P+S, and S*G rows of a head of keys
  size_t key_columns, value_columns;              // padded to whole panels
  size_t row_blocks, key_blocks, tasks, workers;  // key_blocks > 1 only where row_blocks is 1
  size_t task_rows;

  explicit Shares(const AttentionSpec& spec)
      : group(spec.heads / spec.kv_heads),
        keys(spec.past + spec.queries),
        rows(spec.queries * group),
        key_columns(round_up(spec.key_size, kPanelRows)),
        value_columns(round_up(spec.value_size, kPanelRows)),
        row_blocks((rows + kTaskRows - 1) / kTaskRows),
        key_blocks(row_blocks > 1 ? 1 : (keys + kTaskKeys - 1) / kTaskKeys),
        tasks(spec.batch * spec.kv_heads * row_blocks * key_blocks),
        workers(std::min(tasks, kWorkers)),
        task_rows(std::min(rows, kTaskRows)) {}
};

// What one task works in.
struct Worker {
  float *queries, *largest, *sum, *mixed;
  float *keys, *values;  // copies, where their own columns are no whole panels
  const uint8_t** seen;
  uint8_t* work;

  Worker(const AttentionSpec& spec, const Shares& shares, Carver* carver) {
    const size_t rows = shares.task_rows;
    queries = carver->take<float>(rows * shares.key_columns);
    largest = carver->take<float>(rows);
    sum = carver->take<float>(rows);
    mixed = carver->take<float>(rows * shares.value_columns);
    const bool copies_keys = spec.key_size != shares.key_columns;
    const bool copies_values = spec.value_size != shares.value_columns;
    keys = carver->take<float>(copies_keys ? kAttentionKeys * shares.key_columns : 0);
    values = carver->take<float>(copies_values ? kAttentionKeys * shares.value_columns : 0);
    seen = carver->take<const uint8_t*>(rows);
    work = carver->take<uint8_t>(attention_work(rows, shares.key_columns));
  }
};

// What a task has mixed of its keys, where it has not all of them: for each row the largest score,
// the sum of the weights and the weighted values.
size_t part_floats(const Shares& shares) {
  return shares.key_blocks > 1 ? shares.rows * (2 + shares.value_columns) : 0;
}

// Rows of `count` numbers, padded with zeros.
void copy_rows(const float* from, size_t stride, size_t rows, size_t count, size_t padded,
               float* to) {
  for (size_t r = 0; r < rows; ++r) {
    std::copy_n(from + r * stride, count, to + r * padded);
    std::fill(to + r * padded + count, to + (r + 1) * padded, 0.0f);
  }
}

// Which keys of a block the rows of a task see.
struct Sight {
  size_t first = 0, end = 0;  // none outside
  bool all = true;            // every row sees each of these

  // seen [rows] of [count] bytes; neighbours may be one row for several heads.
  Sight(const uint8_t* const* seen, size_t rows, size_t step, size_t count) {
    uint8_t any[kAttentionKeys] = {}, every[kAttentionKeys];
    std::fill(every, every + count, uint8_t(1));
    for (size_t r = 0; r < rows; r += step)
      for (size_t k = 0; k < count; ++k) {
        any[k] |= seen[r][k];
        every[k] &= seen[r][k];
      }
    while (first < count && !any[first]) ++first;
    for (size_t k = first; k < count; ++k)
      if (any[k]) end = k + 1;
    for (size_t k = first; k < end; ++k) all = all && every[k];
  }
};

class Attention {
 public:
  Attention(const Isa* isa, const AttentionSpec& spec, const AttentionTensors& t, void* scratch)
      : isa_(isa), spec_(spec), shares_(spec), t_(t) {
    Carver carver(scratch);
    parts_ = carver.take<float>(part_floats(shares_) * shares_.tasks);
    worker_bytes_ = worker_bytes(spec, shares_);
    workers_ = carver.take<uint8_t>(worker_bytes_ * shares_.workers);
    used_ = carver.used();
  }

  size_t used() const { return used_; }

  void run(const Parallel& parallel) const {
    const size_t products = shares_.tasks
                                ? spec_.batch * spec_.heads * spec_.queries * shares_.keys *
                                      (spec_.key_size + spec_.value_size) / shares_.workers
                                : 0;
    for_each(parallel, shares_.workers, products, [&](size_t worker) {
      for (size_t task = worker; task < shares_.tasks; task += shares_.workers)
        attend(task, workers_ + worker * worker_bytes_);
    });
    if (shares_.key_blocks > 1)
      for (size_t head = 0; head < spec_.batch * spec_.kv_heads; ++head) join(head);
  }

 private:
  static size_t worker_bytes(const AttentionSpec& spec, const Shares& shares) {
    Carver carver(nullptr);
    Worker(spec, shares, &carver);
    return carver.used();
  }

  void attend(size_t task, uint8_t* memory) const {
    Carver carver(memory);
    const Worker worker(spec_, shares_, &carver);
    const size_t key_block = task / spec_.kv_heads % shares_.key_blocks;
    const size_t row_block = task / spec_.kv_heads / shares_.key_blocks % shares_.row_blocks;
    const size_t batch = task / spec_.kv_heads / shares_.key_blocks / shares_.row_blocks;
    const size_t kv_head = task % spec_.kv_heads;
    const size_t first_row = row_block * kTaskRows;
    const size_t rows = std::min(kTaskRows, shares_.rows - first_row);
    take_queries(worker, batch, kv_head, first_row, rows);
    const size_t first_key = key_block * kTaskKeys;
    const size_t end =
        shares_.key_blocks > 1 ? std::min(shares_.keys, first_key + kTaskKeys) : shares_.keys;
    for (size_t key = first_key; key < end; key += kAttentionKeys)
      attend_block(worker, batch, kv_head, first_row, rows, key,
                   std::min(kAttentionKeys, end - key));
    if (shares_.key_blocks > 1) {
      float* part = parts_ + task * part_floats(shares_);
      part = std::copy_n(worker.largest, rows, part);
      part = std::copy_n(worker.sum, rows, part);
      std::copy_n(worker.mixed, rows * shares_.value_columns, part);
      return;
    }
    for (size_t r = 0; r < rows; ++r)
      give(worker.mixed + r * shares_.value_columns, worker.sum[r],
           output(batch, kv_head, first_row + r));
  }

  void take_queries(const Worker& worker, size_t batch, size_t kv_head, size_t first_row,
                    size_t rows) const {
    for (size_t r = 0; r < rows; ++r) {
      const float* from = t_.query + place(batch, kv_head, first_row + r) * spec_.key_size;
      float* to = worker.queries + r * shares_.key_columns;
      for (size_t c = 0; c < spec_.key_size; ++c) to[c] = from[c] * spec_.scale;
      std::fill(to + spec_.key_size, to + shares_.key_columns, 0.0f);
    }
    std::fill_n(worker.largest, rows, kNothing);
    std::fill_n(worker.sum, rows, 0.0f);
    std::fill_n(worker.mixed, rows * shares_.value_columns, 0.0f);
  }

  void attend_block(const Worker& worker, size_t batch, size_t kv_head, size_t first_row,
                    size_t rows, size_t key, size_t count) const {
    const uint8_t* mask = t_.mask + (spec_.mask_per_batch ? batch : 0) * spec_.queries * shares_.keys;
    for (size_t r = 0; r < rows; ++r)
      worker.seen[r] = mask + (first_row + r) / shares_.group * shares_.keys + key;
    // Rows of a group see alike, and a task begins anywhere in one.
    const size_t step = first_row % shares_.group ? 1 : shares_.group;
    const Sight sight(worker.seen, rows, step, count);
    if (sight.first >= sight.end) return;
    for (size_t r = 0; r < rows; ++r) worker.seen[r] += sight.first;
    key += sight.first;
    count = sight.end - sight.first;
    const size_t heads = spec_.batch * spec_.kv_heads, head = batch * spec_.kv_heads + kv_head;
    AttentionBlock block{};
    block.queries = worker.queries;
    block.rows = rows;
    block.key_columns = shares_.key_columns;
    block.value_columns = shares_.value_columns;
    block.keys = t_.present_key + (key * heads + head) * spec_.key_size;
    block.values = t_.present_value + (key * heads + head) * spec_.value_size;
    block.key_stride = heads * spec_.key_size;
    block.value_stride = heads * spec_.value_size;
    block.count = count;
    block.seen = sight.all ? nullptr : worker.seen;
    block.largest = worker.largest;
    block.sum = worker.sum;
    block.mixed = worker.mixed;
    block.work = worker.work;
    if (spec_.key_size != shares_.key_columns) {
      copy_rows(block.keys, block.key_stride, count, spec_.key_size, shares_.key_columns,
                worker.keys);
      block.keys = worker.keys;
      block.key_stride = shares_.key_columns;
    }
    if (spec_.value_size != shares_.value_columns) {
      copy_rows(block.values, block.value_stride, count, spec_.value_size, shares_.value_columns,
                worker.values);
      block.values = worker.values;
      block.value_stride = shares_.value_columns;
    }
    isa_->attend(block);
  }

  // The tasks that share the keys of one head, joined in order of the keys.
  void join(size_t head) const {
    const size_t batch = head / spec_.kv_heads, kv_head = head % spec_.kv_heads;
    const size_t rows = shares_.rows, columns = shares_.value_columns;
    const auto part = [&](size_t block) {
      const size_t task = (batch * shares_.key_blocks + block) * spec_.kv_heads + kv_head;
      return parts_ + task * part_floats(shares_);
    };
    for (size_t r = 0; r < rows; ++r) {
      float largest = kNothing, sum = 0;
      for (size_t b = 0; b < shares_.key_blocks; ++b) largest = std::max(largest, part(b)[r]);
      float* mixed = part(0) + 2 * rows + r * columns;
      for (size_t b = 0; b < shares_.key_blocks; ++b) {
        const float* other = part(b) + 2 * rows + r * columns;
        // Nothing seen at all is -inf less -inf.
        const float factor = part(b)[r] == kNothing ? 0.0f : std::exp(part(b)[r] - largest);
        sum += part(b)[rows + r] * factor;
        for (size_t c = 0; c < columns; ++c)
          mixed[c] = (b ? mixed[c] : 0.0f) + other[c] * factor;
      }
      give(mixed, sum, output(batch, kv_head, r));
    }
  }

  void give(const float* mixed, float sum, float* y) const {
    for (size_t c = 0; c < spec_.value_size; ++c) y[c] = sum == 0.0f ? 0.0f : mixed[c] / sum;
  }

  // Where row `row` of a head of keys lies in [B, S, N].
  size_t place(size_t batch, size_t kv_head, size_t row) const {
    const size_t query = batch * spec_.queries + row / shares_.group;
    return query * spec_.heads + kv_head * shares_.group + row % shares_.group;
  }

  float* output(size_t batch, size_t kv_head, size_t row) const {
    return t_.y + place(batch, kv_head, row) * spec_.value_size;
  }

  const Isa* isa_;
  const AttentionSpec& spec_;
  Shares shares_;
  const AttentionTensors& t_;
  float* parts_;
  uint8_t* workers_;
  size_t worker_bytes_, used_;
};

// present [P+S, B, n]: past [P, B, n], which may lie there already, and rows [B, S, n] behind it.
void append(const AttentionSpec& spec, const float* past, const float* rows, size_t n,
            float* present) {
  const size_t before = spec.past * spec.batch * n;
  if (past != present && before) std::memmove(present, past, before * sizeof(float));
  for (size_t s = 0; s < spec.queries; ++s)
    for (size_t b = 0; b < spec.batch; ++b)
      std::copy_n(rows + (b * spec.queries + s) * n, n, present + before + (s * spec.batch + b) * n);
}

}  // namespace

size_t attention_scratch(const Isa* isa, const AttentionSpec& spec) {
  return Attention(isa, spec, {}, nullptr).used();
}

void attention(const Isa* isa, const AttentionSpec& spec, const AttentionTensors& tensors,
               void* scratch, const Parallel& parallel) {
  append(spec, tensors.past_key, tensors.key, spec.kv_heads * spec.key_size, tensors.present_key);
  append(spec, tensors.past_value, tensors.value, spec.kv_heads * spec.value_size,
         tensors.present_value);
  Attention(isa, spec, tensors, scratch).run(parallel);
}

}  // namespace moe
