// The launcher's functions with plain arguments, for ctypes.
#include <cstring>

#include "moe_cuda.h"

using namespace moe;

namespace {

const cuda::Device* device() {
  const char* why = nullptr;
  return cuda::current_device(&why);
}

}  // namespace

#define SHIM extern "C" __attribute__((visibility("default")))

// A matrix as numbers: format, experts, rows, columns, block_size; no experts: there is none.
struct Matrix {
  uint64_t format, experts, rows, columns, block_size;
  const void* values;
  const void* scales;
};

struct Spec {
  int32_t activation, gated, weight_on_input;
  float alpha, limit;
  int32_t row_format, type;
  Matrix up, down;
  const float *up_bias, *down_bias;
};

static cuda::Matrices matrices(const Matrix& m) {
  return {Format(m.format), m.experts, m.rows, m.columns, m.block_size, m.values, m.scales};
}

struct Held {
  cuda::Matrices up, down;
  cuda::ExpertsSpec spec;

  explicit Held(const Spec& s) : up(matrices(s.up)), down(matrices(s.down)) {
    spec = {Activation(s.activation),
            s.gated != 0,
            s.weight_on_input != 0,
            s.alpha,
            s.limit,
            RowFormat(s.row_format),
            cuda::Float(s.type),
            s.up.experts ? &up : nullptr,
            &down,
            s.up_bias,
            s.down_bias};
  }
};

SHIM const char* shim_ready() {
  const char* why = nullptr;
  return cuda::current_device(&why) ? nullptr : why;
}

SHIM const char* shim_route(const uint64_t* sizes, const float* numbers, const float* logits,
                            const float* bias, const float* scale, uint64_t tokens, float* weights,
                            int32_t* ids) {
  RouterSpec spec = {};
  spec.num_experts = sizes[0];
  spec.top_k = sizes[1];
  spec.score = Score(sizes[2]);
  spec.normalize = sizes[3] != 0;
  spec.num_groups = sizes[4];
  spec.topk_groups = sizes[5];
  spec.group_score = GroupScore(sizes[6]);
  spec.normalize_eps = numbers[0];
  spec.normalize_min = numbers[1];
  spec.routed_scaling = numbers[2];
  return cuda::route(device(), spec, logits, bias, scale, tokens, weights, ids, nullptr);
}

SHIM uint64_t shim_experts_workspace(const Spec* s, uint64_t tokens, uint64_t top_k) {
  const Held held(*s);
  return cuda::experts_workspace(held.spec, tokens, top_k);
}

SHIM const char* shim_experts(const Spec* s, const void* x, const int32_t* ids, const float* weights,
                              uint64_t tokens, uint64_t top_k, void* y, void* workspace) {
  const Held held(*s);
  return cuda::experts(device(), held.spec, x, ids, weights, tokens, top_k, y, workspace, nullptr);
}

SHIM uint64_t shim_dispatch_workspace(uint64_t assignments, uint64_t num_experts) {
  return cuda::dispatch_workspace(assignments, num_experts);
}

SHIM const char* shim_dispatch(const int32_t* ids, uint64_t assignments, uint64_t num_experts,
                               int32_t* order, int32_t* offsets, void* workspace) {
  return cuda::dispatch(device(), ids, assignments, num_experts, order, offsets, workspace, nullptr);
}

SHIM uint64_t shim_grouped_matmul_workspace(const Matrix* m, int32_t row_format, int32_t type,
                                            uint64_t rows) {
  return cuda::grouped_matmul_workspace(matrices(*m), RowFormat(row_format), cuda::Float(type), rows);
}

SHIM const char* shim_grouped_matmul(const Matrix* m, const float* bias, int32_t row_format,
                                     int32_t type, const void* x, const int32_t* offsets, uint64_t rows,
                                     void* y, void* workspace) {
  return cuda::grouped_matmul(device(), matrices(*m), bias, RowFormat(row_format), cuda::Float(type), x,
                              offsets, rows, y, workspace, nullptr);
}

SHIM uint64_t shim_combine_workspace(uint64_t assignments) {
  return cuda::combine_workspace(assignments);
}

SHIM const char* shim_combine(int32_t type, const void* y_sorted, const int32_t* order,
                              const float* weights, uint64_t tokens, uint64_t top_k, uint64_t columns,
                              void* y, void* workspace) {
  return cuda::combine(device(), cuda::Float(type), y_sorted, order, weights, tokens, top_k, columns, y,
                       workspace, nullptr);
}
