// moe_cuda.h on the host, over the CPU kernels: device memory is this process's memory, and a launch
// has ended when it returns.  It lets the plugins be driven from end to end where there is no GPU.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "moe_cuda.h"

namespace moe::cuda {

struct Device {};

namespace {

const moe::Isa* isa() {
  const char* why = nullptr;
  static const moe::Isa* best = moe::isa_best(&why);
  return best;
}

float float_of(uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

uint32_t bits_of(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return bits;
}

float widen_f16(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                     : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                     : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return half & 0x8000 ? -size : size;
}

uint16_t round_f16(float number) {
  const uint16_t sign = bits_of(number) >> 31 ? 0x8000 : 0;
  const float size = std::fabs(number);
  if (std::isnan(number)) return sign | 0x7e00;
  if (size == 0) return sign;
  if (size >= 65520.0f) return sign | 0x7c00;  // half a step above the largest
  int exponent = 0;
  std::frexp(size, &exponent);
  // The step of halves at this size: 11 bits of mantissa, subnormals in steps of 2^-24.
  const int step = std::max(exponent - 11, -24);
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, -step)));
  if (step == -24) return sign | static_cast<uint16_t>(steps);
  return sign | static_cast<uint16_t>(((step + 24) << 10) + steps);
}

uint16_t round_bf16(float number) {
  const uint32_t bits = bits_of(number);
  if (std::isnan(number)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

std::vector<float> widened(Float type, const void* data, size_t count) {
  std::vector<float> numbers(count);
  const auto* halves = static_cast<const uint16_t*>(data);
  for (size_t i = 0; i < count; ++i) {
    numbers[i] = type == Float::f32   ? static_cast<const float*>(data)[i]
                 : type == Float::f16 ? widen_f16(halves[i])
                                      : float_of(uint32_t{halves[i]} << 16);
  }
  return numbers;
}

void round_to(Float type, const std::vector<float>& numbers, void* out) {
  auto* halves = static_cast<uint16_t*>(out);
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (type == Float::f32)
      static_cast<float*>(out)[i] = numbers[i];
    else
      halves[i] = type == Float::f16 ? round_f16(numbers[i]) : round_bf16(numbers[i]);
  }
}

// What a fault looks at: no numbers.
Panels shape_of(const Matrices& matrices, bool gated) {
  Panels panels{};
  panels.format = matrices.format;
  panels.experts = matrices.experts;
  panels.rows = matrices.rows;
  panels.columns = matrices.columns;
  panels.block_size = matrices.block_size;
  panels.gated = gated;
  return panels;
}

struct Free {
  void operator()(uint8_t* memory) const { std::free(memory); }
};

// Matrices as the CPU kernels want them.
struct Packed {
  Packed(const Matrices& matrices, bool gated) {
    const size_t rows = matrices.experts * matrices.rows;
    const size_t block = matrices.block_size ? matrices.block_size : matrices.columns;
    const size_t blocks = (matrices.columns + block - 1) / block;
    std::vector<float> scales;
    if (matrices.scales) scales = widened(Float::bf16, matrices.scales, rows * blocks);
    const RowsWeight weight{matrices.format,  matrices.experts, matrices.rows, matrices.columns,
                            matrices.block_size, matrices.values,
                            scales.empty() ? nullptr : scales.data(), nullptr, gated, false};
    const size_t bytes = panels_bytes(weight);
    void* base = nullptr;
    if (posix_memalign(&base, 64, bytes)) std::abort();
    memory.reset(static_cast<uint8_t*>(base));
    pack_panels(weight, memory.get(), serial());
    const char* why = nullptr;
    if (!read_panels(memory.get(), bytes, &panels, &why)) std::abort();
  }
  std::unique_ptr<uint8_t, Free> memory;
  Panels panels{};
};

moe::ExpertsSpec spec_on_host(const ExpertsSpec& spec, const Panels* up, const Panels* down) {
  return {spec.activation, false,   spec.weight_on_input, spec.alpha,    spec.limit,
          spec.row_format, up,      down,                 spec.up_bias, spec.down_bias};
}

// Fills what the kernel asked for, so that a guard behind it shows where less was given.
const char* use(void* workspace, size_t bytes) {
  if (bytes == 0) return nullptr;
  if (workspace == nullptr) return "no workspace was given";
  if (reinterpret_cast<size_t>(workspace) % kWorkspaceAlignment) return "the workspace is not aligned";
  std::memset(workspace, 0xa5, bytes);
  return nullptr;
}

std::unique_ptr<uint8_t, Free> scratch(size_t bytes) {
  void* base = nullptr;
  if (posix_memalign(&base, 64, bytes ? bytes : 1)) std::abort();
  return std::unique_ptr<uint8_t, Free>(static_cast<uint8_t*>(base));
}

}  // namespace

const Device* current_device(const char** why) {
  static const Device host;
  // Stands for a machine without a driver.
  if (std::getenv("MOE_EXPORT_TEST_NO_GPU") == nullptr) return &host;
  *why = "no CUDA driver was found";
  return nullptr;
}

int compute_capability(const Device*) { return 0; }

const char* route(const Device*, const RouterSpec& spec, const float* router_logits,
                  const float* correction_bias, const float* expert_scale, size_t tokens,
                  float* topk_weights, int32_t* topk_ids, Stream) {
  moe::route(spec, router_logits, correction_bias, expert_scale, tokens, topk_weights, topk_ids,
             serial());
  return nullptr;
}

const char* experts_fault(const ExpertsSpec& spec) {
  const Panels down = shape_of(*spec.down, false);
  if (!spec.up) return moe::experts_fault(spec_on_host(spec, nullptr, &down));
  const Panels up = shape_of(*spec.up, spec.gated);
  return moe::experts_fault(spec_on_host(spec, &up, &down));
}

size_t experts_workspace(const ExpertsSpec& spec, size_t tokens, size_t top_k) {
  return tokens * top_k * (spec.down->columns + spec.down->rows) * sizeof(float);
}

const char* experts(const Device*, const ExpertsSpec& spec, const void* x, const int32_t* topk_ids,
                    const float* topk_weights, size_t tokens, size_t top_k, void* y, void* workspace,
                    Stream) {
  if (const char* fault = use(workspace, experts_workspace(spec, tokens, top_k))) return fault;
  const Packed down(*spec.down, false);
  std::unique_ptr<const Packed> up;
  if (spec.up) up = std::make_unique<const Packed>(*spec.up, spec.gated);
  const moe::ExpertsSpec host = spec_on_host(spec, up ? &up->panels : nullptr, &down.panels);
  const Matrices& first = spec.up ? *spec.up : *spec.down;
  const std::vector<float> rows = widened(spec.type, x, tokens * first.columns);
  std::vector<float> result(tokens * spec.down->rows);
  const auto work = scratch(experts_scratch(isa(), host, tokens, top_k));
  moe::experts(isa(), host, rows.data(), topk_ids, topk_weights, tokens, top_k, result.data(),
               work.get(), serial());
  round_to(spec.type, result, y);
  return nullptr;
}

size_t dispatch_workspace(size_t assignments, size_t num_experts) {
  return (assignments + num_experts + 1) * sizeof(int32_t);
}

const char* dispatch(const Device*, const int32_t* topk_ids, size_t assignments, size_t num_experts,
                     int32_t* order, int32_t* expert_offsets, void* workspace, Stream) {
  if (const char* fault = use(workspace, dispatch_workspace(assignments, num_experts))) return fault;
  moe::dispatch(topk_ids, assignments, num_experts, order, expert_offsets);
  return nullptr;
}

const char* grouped_matmul_fault(const Matrices& weights, RowFormat row_format) {
  ExpertsSpec spec{};
  spec.activation = Activation::identity;
  spec.row_format = row_format;
  spec.down = &weights;
  return experts_fault(spec);
}

size_t grouped_matmul_workspace(const Matrices& weights, RowFormat, Float, size_t rows) {
  return (weights.experts + rows) * sizeof(int32_t);
}

const char* grouped_matmul(const Device*, const Matrices& weights, const float* bias,
                           RowFormat row_format, Float type, const void* x_sorted,
                           const int32_t* expert_offsets, size_t rows, void* y_sorted,
                           void* workspace, Stream) {
  const size_t asked = grouped_matmul_workspace(weights, row_format, type, rows);
  if (const char* fault = use(workspace, asked)) return fault;
  const Packed packed(weights, false);
  const std::vector<float> x = widened(type, x_sorted, rows * weights.columns);
  std::vector<float> result(rows * weights.rows);
  const auto work = scratch(grouped_matmul_scratch(isa(), packed.panels, row_format, rows));
  moe::grouped_matmul(isa(), packed.panels, bias, row_format, x.data(), expert_offsets, rows,
                      result.data(), work.get(), serial());
  round_to(type, result, y_sorted);
  return nullptr;
}

size_t combine_workspace(size_t assignments) { return assignments * sizeof(int32_t); }

const char* combine(const Device*, Float type, const void* y_sorted, const int32_t* order,
                    const float* topk_weights, size_t tokens, size_t top_k, size_t columns, void* y,
                    void* workspace, Stream) {
  if (const char* fault = use(workspace, combine_workspace(tokens * top_k))) return fault;
  const std::vector<float> rows = widened(type, y_sorted, tokens * top_k * columns);
  std::vector<float> result(tokens * columns);
  const auto work = scratch(combine_scratch(tokens, top_k));
  moe::combine(rows.data(), order, topk_weights, tokens, top_k, columns, result.data(), work.get(),
               serial());
  round_to(type, result, y);
  return nullptr;
}

}  // namespace moe::cuda
