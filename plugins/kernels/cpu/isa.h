// What one level of CPU offers to the kernels.  Each isa_*.cc fills one such table.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CPU_ISA_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CPU_ISA_H_

#include "../moe_kernels.h"

namespace moe {

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
};

extern const Isa kPortable;
#if MOE_EXPORT_X86
extern const Isa kAvx2;
#endif
#if MOE_EXPORT_AVX512
extern const Isa kAvx512, kAvx512Bf16;
#endif

}  // namespace moe

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CPU_ISA_H_
