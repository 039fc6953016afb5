// Looks things up in kernel_table.inc.
#include "kernel_table.h"

#include <cmath>
#include <map>
#include <utility>

namespace moe::cuda {
namespace {

struct ResourcesRow {
  Kernel kernel;
  int sm;
  Resources resources;
};

struct RouterRow {
  size_t experts;
  Kernel kernel;
};

struct RowsRow {
  double mean;
  size_t rows;
};

const KernelRow kRows[] = {
#define KERNEL(name, letters) {#name, letters},
#include "kernel_table.inc"
#undef KERNEL
#define KERNEL(...)
};

const MatrixRow kMatrices[] = {
#undef MATRIX
#define MATRIX(name, stored, rows, gated, vector, block_m) \
  {Kernel::name, stored, rows, gated, vector, block_m},
#include "kernel_table.inc"
#undef MATRIX
#define MATRIX(...)
};

const ResourcesRow kResources[] = {
#undef RESOURCES
#define RESOURCES(name, sm, threads, shared, block_n) {Kernel::name, sm, {threads, shared, block_n}},
#include "kernel_table.inc"
#undef RESOURCES
#define RESOURCES(...)
};

const RouterRow kRouters[] = {
#undef EXPERTS_OF_ROUTER
#define EXPERTS_OF_ROUTER(experts, name) {experts, Kernel::name},
#include "kernel_table.inc"
#undef EXPERTS_OF_ROUTER
#define EXPERTS_OF_ROUTER(...)
};

const RowsRow kRowsOfTile[] = {
#undef ROWS_OF_TILE
#define ROWS_OF_TILE(mean, rows) {mean, rows},
#include "kernel_table.inc"
#undef ROWS_OF_TILE
#define ROWS_OF_TILE(...)
};

constexpr size_t kLargestRows =
#undef LARGEST_ROWS
#define LARGEST_ROWS(rows) rows
#include "kernel_table.inc"
#undef LARGEST_ROWS
#define LARGEST_ROWS(...)
    ;

struct Decode {
  size_t tokens;
  double rereads;
};
constexpr Decode kDecode =
#undef DECODE
#define DECODE(tokens, rereads) \
  { tokens, rereads }
#include "kernel_table.inc"
#undef DECODE
#define DECODE(...)
    ;

}  // namespace

const KernelRow& row_of(Kernel kernel) { return kRows[size_t(kernel)]; }

const MatrixRow* matrix_of(Stored stored, RowFormat rows, bool gated, bool vector, size_t block_m) {
  const MatrixRow* largest = nullptr;
  for (const MatrixRow& row : kMatrices) {
    if (row.stored != stored || row.rows != rows || row.gated != gated || row.vector != vector) continue;
    if (!row.block_m != !block_m) continue;
    if (!vector) return &row;
    if (row.block_m <= block_m && (!largest || row.block_m > largest->block_m)) largest = &row;
  }
  return largest;
}

Kernel router_of(size_t num_experts) {
  for (const RouterRow& row : kRouters)
    if (num_experts <= row.experts) return row.kernel;
  return Kernel::count;
}

size_t most_experts() { return std::end(kRouters)[-1].experts; }

size_t rows_of_tile(double mean) {
  for (const RowsRow& row : kRowsOfTile)
    if (mean <= row.mean) return row.rows;
  return kLargestRows;
}

bool decodes(size_t tokens, size_t top_k, size_t num_experts) {
  if (tokens > kDecode.tokens) return false;
  const double experts = double(num_experts), missed = 1 - double(top_k) / experts;
  const double chosen = missed > 0 ? experts * (1 - std::pow(missed, double(tokens))) : experts;
  return double(tokens * top_k) <= kDecode.rereads * chosen;
}

int sm_for(int compute_capability) {
  for (const ResourcesRow& row : kResources)
    if (row.sm == compute_capability) return row.sm;
  return compute_capability >= 80 ? 80 : 0;
}

const Resources& resources_of(Kernel kernel, int sm) {
  static const std::map<std::pair<Kernel, int>, const Resources*> all = [] {
    std::map<std::pair<Kernel, int>, const Resources*> found;
    for (const ResourcesRow& row : kResources) found[{row.kernel, row.sm}] = &row.resources;
    return found;
  }();
  return *all.at({kernel, sm});
}

}  // namespace moe::cuda
