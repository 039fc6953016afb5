// Matrices and rows: which kernels fit them, and how they are launched.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_MATRICES_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_MATRICES_H_

#include "device.h"

namespace moe::cuda {

constexpr size_t bytes_of(RowFormat format) { return format == RowFormat::f32 ? 4 : 2; }

// Null where a kernel multiplies rows of this format with these matrices; `what` names them in words.
const char* matrices_fault(const Matrices& matrices, RowFormat row_format, const char* what);

Stored stored_of(const Matrices& matrices);

// Whether rows have their even columns first where they meet these matrices (stored.py says why).
constexpr bool wants_apart(const Matrices& matrices) { return matrices.format == Format::int4; }

// The variant for tiles of block_m rows, or the gemv with block_m 0.  Where rows, bias or matrix do not
// lie as vectors want it, the variant that takes anything.
const MatrixRow& variant(const Matrices& matrices, RowFormat row_format, bool gated, size_t block_m,
                         const void* x, const float* bias);

// Elements that one row of the matrix is stored in, and scales of a row.
size_t row_elements(const Matrices& matrices);
size_t scale_blocks(const Matrices& matrices);

// What a scale's column is divided by: never 0.
size_t columns_of_scale(const Matrices& matrices);

// `count` rows [count, columns] of tokens in the row format; row r is token r / divisor, times
// weights[r] where there are weights.  Under `apart` the even columns come first.
const char* convert_rows(const Device* device, Float type, RowFormat row_format, const void* x,
                         const float* weights, size_t count, size_t columns, size_t divisor, bool apart,
                         void* y, Stream stream);

// Whether tokens of this type are already rows of this format, as the matrices want them.
constexpr bool are_rows(Float type, RowFormat format, const Matrices& matrices) {
  if (wants_apart(matrices)) return false;
  return (type == Float::f32 && format == RowFormat::f32) ||
         (type == Float::bf16 && format == RowFormat::bf16);
}

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_MATRICES_H_
