// The mixture-of-experts ops on a CPU: raw pointers and sizes, no framework.
//
// What each op means is in docs/ops.md, how packed weights lie in memory in docs/panels.md.
// Letters: T tokens, K top_k, E experts, H hidden, I intermediate, S = T*K assignments.
// Matrices are row-major and dense unless a stride is named.  No function throws or keeps a pointer.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_MOE_KERNELS_H_
#define MOE_EXPORT_PLUGINS_KERNELS_MOE_KERNELS_H_

#include <cstddef>
#include <cstdint>

namespace moe {

// ---------------------------------------------------------------------------------- threads

// Runs task(argument, i) once for every i in [0, count), in any order and on any threads, and
// returns when all have ended.  Results never depend on the order.
struct Parallel {
  void (*run)(void* pool, size_t count, void (*task)(void* argument, size_t i), void* argument);
  void* pool;
};

// On the calling thread, one after the other.
Parallel serial();

// ---------------------------------------------------------------------------------- ISA levels

struct Isa;  // the routines of one level

// The level named ("portable", "avx2", "avx512", "avx512_bf16", "avx512_amx"), or null where this CPU or this
// build lacks it or there is no such level.
const Isa* isa_named(const char* name);

// The best level of this CPU, or the one that the environment variable MOE_EXPORT_CPU names; null
// with *why set where that is not to be had.
const Isa* isa_best(const char** why);

const char* isa_name(const Isa* isa);

// ---------------------------------------------------------------------------------- weights

enum class Format : uint32_t { f32 = 0, bf16 = 1, f16 = 2, int8 = 3, int4 = 4 };

// What rows are rounded to before a matrix multiplies them.
enum class RowFormat : uint32_t { f32 = 0, bf16 = 1, int8 = 2, int16 = 3 };

// The weights of E experts as docs/ops.md stores them.  A value is (q - zero) * scale.
struct RowsWeight {
  Format format;
  size_t experts, rows, columns;
  size_t block_size;    // columns that share a scale; 0: all of a row
  const void* values;   // [E, rows, columns]; int4: two to a byte, the first in the low half
  const float* scales;  // [E, rows, blocks], or null for floats
  const void* zeros;    // like scales, in the weight's type (int4 packed as values are), or null
  bool gated;           // rows are gates and values of I = rows / 2
  bool interleaved;     // gates are the even rows; else the first I
};

// The same in panels (docs/panels.md), as a kernel reads them.
struct Panels {
  Format format;
  size_t experts, rows, columns;
  size_t block_size;
  bool gated, has_zeros, wide_scales;
  size_t panels;                  // of one expert
  size_t panel_bytes, expert_bytes;
  const uint8_t* data;            // of expert 0, 64-byte aligned
};

// The bytes that pack_panels writes for w.  It looks at scales to see whether bfloat16 holds them.
size_t panels_bytes(const RowsWeight& w);

// Writes w in panels to blob (64-byte aligned).
void pack_panels(const RowsWeight& w, uint8_t* blob, const Parallel& parallel);

// Reads the header of a blob.  False with *why set where the blob is not whole or not of a known
// version; nothing behind a header that was refused is read.
bool read_panels(const void* blob, size_t bytes, Panels* panels, const char** why);

// Row `row` of expert `expert` as numbers, the layout's scalar twin: float [columns].
void unpack_row(const Panels& panels, size_t expert, size_t row, float* out);

// Asks for huge pages where the weights lie.  A wish: it costs nothing and may do nothing.
void advise_huge_pages(const void* data, size_t bytes);

// ---------------------------------------------------------------------------------- Router

enum class Score { softmax, sigmoid, softmax_topk, sigmoid_topk };
enum class GroupScore { max, top2_sum };

struct RouterSpec {
  size_t num_experts, top_k;  // 1 <= top_k <= num_experts
  Score score;
  bool normalize;
  float normalize_eps, normalize_min;
  size_t num_groups, topk_groups;  // num_groups divides num_experts
  GroupScore group_score;
  float routed_scaling;
};

// topk_weights [T, K] and topk_ids [T, K] of router_logits [T, E].  correction_bias and expert_scale
// [E] may be null.
void route(const RouterSpec& spec, const float* router_logits, const float* correction_bias,
           const float* expert_scale, size_t tokens, float* topk_weights, int32_t* topk_ids,
           const Parallel& parallel);

// ---------------------------------------------------------------------------------- Experts

enum class Activation { silu, gelu, gelu_tanh, relu, relu2, identity, swiglu_clamped };

struct ExpertsSpec {
  Activation activation;
  bool interleaved;  // the layout of up_bias: gates and values in turn, else gates first
  bool weight_on_input;
  float alpha, limit;
  RowFormat row_format;
  const Panels* up;        // null: an expert is one linear layer
  const Panels* down;
  const float* up_bias;    // [E, I] or [E, 2I], or null
  const float* down_bias;  // [E, Hout], or null
};

// Null where experts() can run the spec, else what is wrong with it.
const char* experts_fault(const ExpertsSpec& spec);

// Scratch bytes that experts() needs for T tokens of top_k experts each.
size_t experts_scratch(const Isa* isa, const ExpertsSpec& spec, size_t tokens, size_t top_k);

// y [T, Hout] of x [T, H], topk_ids and topk_weights [T, K].  scratch: experts_scratch() bytes,
// 64-byte aligned.  Every byte of y is written.
void experts(const Isa* isa, const ExpertsSpec& spec, const float* x, const int32_t* topk_ids,
             const float* topk_weights, size_t tokens, size_t top_k, float* y, void* scratch,
             const Parallel& parallel);

// ---------------------------------------------------------------------------------- its parts

// order [S] and expert_offsets [E+1] of topk_ids [S]: a stable sort by expert, ids outside [0, E)
// last.
void dispatch(const int32_t* topk_ids, size_t assignments, size_t num_experts, int32_t* order,
              int32_t* expert_offsets);

// y_sorted [S, N] of x_sorted [S, H]: each expert's matrix on its rows; rows of no expert are 0.
// Offsets are clipped into [0, S] and never run backwards.  bias [E, N] may be null.
size_t grouped_matmul_scratch(const Isa* isa, const Panels& weights, RowFormat row_format,
                              size_t rows);
void grouped_matmul(const Isa* isa, const Panels& weights, const float* bias, RowFormat row_format,
                    const float* x_sorted, const int32_t* expert_offsets, size_t rows,
                    float* y_sorted, void* scratch, const Parallel& parallel);

// y [T, N] of y_sorted [S, N]: rows back at their tokens, weighted, summed in order of k.  Entries
// of order outside [0, S) are left out.
size_t combine_scratch(size_t tokens, size_t top_k);
void combine(const float* y_sorted, const int32_t* order, const float* topk_weights, size_t tokens,
             size_t top_k, size_t columns, float* y, void* scratch, const Parallel& parallel);

// y [rows, N] of x [rows, H]: the one-expert case of grouped_matmul().
size_t linear_scratch(const Isa* isa, const Panels& weight, RowFormat row_format, size_t rows);
void linear(const Isa* isa, const Panels& weight, const float* bias, RowFormat row_format,
            const float* x, size_t rows, float* y, void* scratch, const Parallel& parallel);

// ---------------------------------------------------------------------------------- CachedAttention

// B, S and P below; N = heads is a multiple of M = kv_heads.
struct AttentionSpec {
  size_t batch, queries, past;
  size_t heads, kv_heads;
  size_t key_size, value_size;  // of one head
  float scale;
  bool mask_per_batch;
};

struct AttentionTensors {
  const float* query;                    // [B, S, N * key_size]
  const float *key, *value;              // [B, S, M * size]
  const uint8_t* mask;                   // [B or 1, S, P+S]: not 0 where a row sees a key
  const float *past_key, *past_value;    // [P, B, M, size]
  float *present_key, *present_value;    // [P+S, B, M, size]; may begin where past_* does
  float* y;                              // [B, S, N * value_size]
};

size_t attention_scratch(const Isa* isa, const AttentionSpec& spec);

// Writes y and what present_* has behind past_*; also past_* itself where it lies elsewhere.  scratch:
// attention_scratch() bytes, 64-byte aligned.
void attention(const Isa* isa, const AttentionSpec& spec, const AttentionTensors& tensors,
               void* scratch, const Parallel& parallel);

// -------------------------------------------------------------------------------------- RotaryHeads

struct HeadsSpec {
  size_t tokens;       // B * S
  size_t heads, size;  // N heads of so many numbers
  size_t half;         // cosines of a token: twice as many numbers of a head are turned
  float epsilon;
};

struct HeadsTensors {
  const float* x;            // [tokens, heads * size]
  const float *cos, *sin;    // [tokens, half]
  const float* norm;         // [size]; null: heads are not normed
  float* y;                  // as x
};

void rotary_heads(const Isa* isa, const HeadsSpec& spec, const HeadsTensors& tensors,
                  const Parallel& parallel);

}  // namespace moe

#endif  // MOE_EXPORT_PLUGINS_KERNELS_MOE_KERNELS_H_
