// What one level of CPU offers to the kernels.  Each isa_*.cc fills one such table.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CPU_ISA_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CPU_ISA_H_

#include "../moe_kernels.h"

namespace moe {

// The keys that attention takes at once: with 64 columns they are 32 KiB as they lie and as much turned,
// and stay in an L2 with their values.
constexpr size_t kAttentionKeys = 128;

// Some queries of one head, or of several that share its keys, and some of these.  Columns are
// multiples of 16.
struct AttentionBlock {
  const float* queries;  // [rows][key_columns], times the scale
  size_t rows;
  size_t key_columns, value_columns;
  const float* keys;  // [count][key_columns], rows key_stride floats apart
  const float* values;
  size_t key_stride, value_stride;
  size_t count;                // 1..kAttentionKeys
  const uint8_t* const* seen;  // [rows] of [count] bytes; null where every query sees every key
  float *largest, *sum;        // [rows]: of what was seen so far, -infinity and 0 before
  float* mixed;                // [rows][value_columns]: the weighted values, not yet divided
  void* work;                  // attention_work() bytes, 64-byte aligned
};

// For the scores, and for the keys turned.
constexpr size_t attention_work(size_t rows, size_t key_columns) {
  return (rows + key_columns) * kAttentionKeys * sizeof(float);
}

// All heads of one token, of RotaryHeads.
struct TokenHeads {
  const float* x;          // [heads][size]
  const float *cos, *sin;  // [half]
  const float* norm;       // [size], or null
  float epsilon;
  size_t heads, size, half;
  float* y;  // [heads][size]
};

// A row that a matrix will multiply lies *prepared*: rounded as its RowFormat says, in the form
// that the level's multiply() reads.
struct Isa {
  const char* name;

  // Bytes of a prepared row of `columns` columns, a multiple of 64.
  size_t (*row_bytes)(Format weights, RowFormat rows, size_t columns);

  // Whether a row of floats is prepared as it stands.
  bool (*row_is_plain)(Format weights, RowFormat rows, size_t columns);

  // Prepares columns [first, first + count) of a row from x [count].  first is a multiple of 32, and
  // count is one too unless the columns are the row's last, whose padding is then written as well.
  void (*prepare)(Format weights, RowFormat rows, size_t columns, size_t first, size_t count,
                  const float* x, void* row);

  // out [num_rows][count * 16], rows `stride` floats apart: prepared rows times `count` neighbouring
  // panels of one expert.  Each number is a sum over columns in one order, whatever num_rows,
  // count and the number's place.
  void (*multiply)(const Panels& weights, RowFormat format, const uint8_t* panels, size_t count,
                   const void* const* rows, size_t num_rows, float* out, size_t stride);

  // out [n] = activation(gate [n]), times value [n] where there is one; n is a multiple of 16.
  void (*activate)(Activation activation, float alpha, float limit, const float* gate,
                   const float* value, size_t n, float* out);

  // Adds what the queries see of a block of keys to largest, sum and mixed.
  void (*attend)(const AttentionBlock& block);

  // y = the heads of x, normed and turned.
  void (*turn_heads)(const TokenHeads& token);

  // Whether multiply() is faster where many rows lie evenly spaced.
  bool likes_even_rows = false;
};

extern const Isa kPortable;
#if MOE_EXPORT_X86
extern const Isa kAvx2;
#endif
#if MOE_EXPORT_AVX512
extern const Isa kAvx512, kAvx512Bf16, kAvx512Amx;
#endif

}  // namespace moe

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CPU_ISA_H_
