// Chooses among the variants of tiles.py.
#include "matrices.h"

namespace moe::cuda {
namespace {

constexpr size_t kWideBlock = 128;  // columns that one product of a wide variant takes
constexpr size_t kVector = 16;  // bytes of the widest load, and elements that tiles.py's hints name

const char* name_of(Format format) {
  constexpr const char* names[] = {"f32", "bf16", "f16", "int8", "int4"};
  return names[size_t(format)];
}

const char* name_of(RowFormat format) {
  constexpr const char* names[] = {"f32", "bf16", "int8", "int16"};
  return names[size_t(format)];
}

bool is_integer(Format format) { return format == Format::int8 || format == Format::int4; }

// Weights in blocks, where those are wide.
Stored wide_of(Stored stored) { return stored == Stored::int8 ? Stored::int8_wide : Stored::int4_wide; }

bool lies_at_vector(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kVector == 0; }

}  // namespace

Stored stored_of(const Matrices& matrices) {
  switch (matrices.format) {
    case Format::f32: return Stored::f32;
    case Format::f16: return Stored::f16;
    case Format::bf16: return Stored::bf16;
    case Format::int8: return matrices.block_size ? Stored::int8 : Stored::int8_row;
    case Format::int4: break;
  }
  return Stored::int4;
}

const char* matrices_fault(const Matrices& m, RowFormat row_format, const char* what) {
  if (m.format > Format::int4) return says("%s: unknown weight format %u", what, unsigned(m.format));
  if (row_format > RowFormat::bf16)
    return says("%s: GPU kernels take row_format bf16 or f32, not %s: export for a GPU with bf16 rows",
                what, row_format <= RowFormat::int16 ? name_of(row_format) : "an unknown one");
  if (!m.experts || !m.rows || !m.columns)
    return says("%s: matrices [%zu, %zu, %zu] hold nothing", what, m.experts, m.rows, m.columns);
  if (!fits(m.experts + 1) || !fits(m.rows * 2) || !fits(m.rows * m.columns))
    return says("%s: a matrix [%zu, %zu] of %zu has more elements than int32 counts", what, m.rows,
                m.columns, m.experts);
  if (m.format == Format::int4 && !m.block_size)
    return says("%s: int4 weights need a scale for each block of 32, 64 or 128 columns", what);
  if (m.format == Format::int4 && m.columns % 2)
    return says("%s: rows of %zu int4 end within a byte", what, m.columns);
  if (is_integer(m.format) && m.block_size % 32)
    return says("%s: a scale for %zu columns; GPU kernels take multiples of 32", what, m.block_size);
  if (!matrix_of(stored_of(m), row_format, false, false, 0))
    return says("%s: %s weights go with row_format %s on a GPU, not %s", what, name_of(m.format),
                row_format == RowFormat::f32 ? "bf16" : "f32", name_of(row_format));
  return nullptr;
}

size_t row_elements(const Matrices& m) {
  return m.format == Format::int4 ? m.columns / 2 : m.columns;
}

size_t scale_blocks(const Matrices& m) {
  if (!is_integer(m.format)) return 0;
  return m.block_size ? blocks(m.columns, m.block_size) : 1;
}

size_t columns_of_scale(const Matrices& m) { return m.block_size ? m.block_size : m.columns; }

const MatrixRow& variant(const Matrices& m, RowFormat row_format, bool gated, size_t block_m,
                         const void* x, const float* bias) {
  const size_t features = gated ? m.rows / 2 : m.rows;
  const bool vector = m.columns % kVector == 0 && row_elements(m) % kVector == 0 &&
                      features % kVector == 0 && lies_at_vector(x) && lies_at_vector(m.values) &&
                      lies_at_vector(bias);
  const Stored stored = stored_of(m);
  const MatrixRow* row = nullptr;
  if (vector && m.block_size && m.block_size % kWideBlock == 0)
    row = matrix_of(wide_of(stored), row_format, gated, true, block_m);
  if (vector && !row) row = matrix_of(stored, row_format, gated, true, block_m);
  return row ? *row : *matrix_of(stored, row_format, gated, false, block_m);
}

const char* convert_rows(const Device* device, Float type, RowFormat row_format, const void* x,
                         const float* weights, size_t count, size_t columns, size_t divisor, bool apart,
                         void* y, Stream stream) {
  constexpr Kernel kernels[2][3] = {
      {Kernel::rows_fp32_fp32, Kernel::rows_fp16_fp32, Kernel::rows_bf16_fp32},
      {Kernel::rows_fp32_bf16, Kernel::rows_fp16_bf16, Kernel::rows_bf16_bf16}};
  const Kernel kernel = kernels[row_format == RowFormat::bf16][size_t(type)];
  const Argument arguments[] = {x, weights, y, columns, divisor, weights != nullptr, apart};
  return launch(device, kernel, {count, blocks(columns, 1024)}, stream, arguments);
}

}  // namespace moe::cuda
