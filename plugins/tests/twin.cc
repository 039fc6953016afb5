#include "twin.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace moe::tests {
namespace {

constexpr size_t kRowBlock = 32;
// tolerance.py: 4 roundings in exp, erf or tanh, 1 before it and 3 behind.
constexpr double kActivationRoundings = 8;

// What is no number in exact arithmetic is none in any: its error is none.
void settle(Judged* row) {
  for (size_t i = 0; i < row->exact.size(); ++i)
    if (!std::isfinite(row->exact[i])) row->bound[i] = 0;
}

double to_bfloat16(double x) {
  if (!std::isfinite(x)) return x;
  int exponent;
  std::frexp(x, &exponent);
  const int step = std::max(exponent, -125) - 8;
  const double rounded = std::ldexp(std::rint(std::ldexp(x, -step)), step);
  return std::fabs(rounded) >= 0x1p128 ? std::copysign(HUGE_VAL, x) : rounded;
}

void round_to_bfloat16(const Judged& row, Judged* out) {
  for (size_t i = 0; i < row.exact.size(); ++i) {
    const double x = row.exact[i], d = row.bound[i], exact = to_bfloat16(x);
    out->exact[i] = exact;
    out->bound[i] =
        std::max(to_bfloat16(x + d) - exact, exact - to_bfloat16(x - d)) + kUnderflow;
  }
}

// One block of at most 32 numbers, from `first` on, to whole steps of which the largest takes `steps`.
void round_to_integers(double steps, const Judged& row, size_t first, size_t count, Judged* out) {
  double largest = 0, error = 0;
  bool finite = true;
  for (size_t i = first; i < first + count; ++i) {
    largest = std::max(largest, std::fabs(row.exact[i]));
    error = std::max(error, row.bound[i]);
    finite = finite && std::isfinite(row.exact[i]);
  }
  double scale = largest / steps;
  if (scale < kUnderflow) scale = 0;
  if (!finite) scale = std::numeric_limits<double>::quiet_NaN();
  const double ds = error / steps + kEps * scale;
  const bool is_safe = scale - ds > std::max(kUnderflow, scale / 2);
  for (size_t i = first; i < first + count; ++i) {
    const double x = row.exact[i], d = row.bound[i];
    const double q = scale == 0 ? 0 : std::rint(x / scale);
    out->exact[i] = q * scale;
    if (!is_safe) {
      out->bound[i] = 2 * (std::fabs(x) + d + scale + ds) + kUnderflow;
      continue;
    }
    const double t = x / scale;
    const double dt = (d + std::fabs(t) * ds) / (scale - ds) + 2 * kEps * std::fabs(t);
    const double moved = std::max(std::rint(t + dt) - q, q - std::rint(t - dt));
    out->bound[i] = moved * (scale + ds) + std::fabs(q) * ds + kEps * std::fabs(q) * scale;
  }
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double activation_of(Activation activation, double g) {
  switch (activation) {
    case Activation::silu:
      return g * sigmoid(g);
    case Activation::gelu:
      return g * (0.5 * (1 + std::erf(g / std::sqrt(2.0))));
    case Activation::gelu_tanh:
      return g / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
    case Activation::relu:
      return g < 0 ? 0 : g;
    case Activation::relu2:
      return g < 0 ? 0 : g * g;
    default:
      return g;
  }
}

double activation_error(Activation activation, double x, double error) {
  static const double slopes[] = {1.0999, 1.1290, 1.1290, 1, 0, 1, 1.0999};
  if (std::isinf(x)) return kUnderflow;  // of relu, whose 0 is exact
  if (activation == Activation::relu2) {
    const double moved = (2 * std::fabs(x) + error) * error;
    return moved + kEps * (x * x + moved) + kUnderflow;
  }
  return slopes[int(activation)] * error + kActivationRoundings * kEps * (std::fabs(x) + error) +
         kUnderflow;
}

Judged activated(const Judged& hidden, const Problem& p) {
  Judged out(p.inner);
  for (size_t i = 0; i < p.inner; ++i) {
    const size_t at = p.gated && p.interleaved ? 2 * i : i;
    double gate = hidden.exact[at];
    const double gate_error = hidden.bound[at];
    if (!p.gated) {
      out.exact[i] = activation_of(p.activation, gate);
      out.bound[i] = activation_error(p.activation, gate, gate_error);
      continue;
    }
    const size_t other = p.interleaved ? at + 1 : p.inner + i;
    double value = hidden.exact[other], value_error = hidden.bound[other], inner;
    if (p.activation == Activation::swiglu_clamped) {
      const double limit = p.limit;
      if (gate > limit) gate = limit;
      value = value > limit ? limit : value < -limit ? -limit : value;
      value += 1;
      value_error += 2 * kEps * std::fabs(value) + kEps * limit;
      inner = gate * sigmoid(double(p.alpha) * gate);
    } else {
      inner = activation_of(p.activation, gate);
    }
    const double inner_error = activation_error(p.activation, gate, gate_error);
    const double product_error =
        inner_error * (std::fabs(value) + value_error) + std::fabs(inner) * value_error;
    out.exact[i] = inner * value;
    out.bound[i] =
        product_error + kEps * (std::fabs(out.exact[i]) + product_error) + kUnderflow;
  }
  settle(&out);
  return out;
}

void weigh(double weight, Judged* row) {
  for (size_t c = 0; c < row->exact.size(); ++c) {
    // Infinity times a number whose sign is not certain may be either infinity, or NaN.
    const bool is_uncertain = std::isinf(weight) && std::fabs(row->exact[c]) <= row->bound[c];
    row->exact[c] *= weight;
    row->bound[c] = is_uncertain                      ? HUGE_VAL
                    : std::isfinite(row->exact[c]) ? row->bound[c] * std::fabs(weight)
                                                      : 0;
  }
}

// The expert's answer to one token, weighted.
Judged answer(const Problem& p, const Data& data, size_t token, size_t expert, double weight) {
  Judged row(p.hidden);
  for (size_t c = 0; c < p.hidden; ++c) row.exact[c] = data.x[token * p.hidden + c];
  if (p.weight_on_input)
    for (size_t c = 0; c < p.hidden; ++c) {
      row.exact[c] *= weight;
      // Where rows are rounded the product's own rounding comes before another.
      if (p.storage.rows != RowFormat::f32)
        row.bound[c] = kEps * std::fabs(row.exact[c]) + kUnderflow;
    }
  if (data.up) {
    const float* bias =
        data.up_bias.size() ? data.up_bias.data() + expert * data.up->shape().rows : nullptr;
    row = multiplied(rounded(row, p.storage.rows), *data.up, expert, bias);
    row = activated(row, p);
  }
  const float* bias = data.down_bias.size() ? data.down_bias.data() + expert * p.output : nullptr;
  row = multiplied(rounded(row, p.storage.rows), *data.down, expert, bias);
  if (!p.weight_on_input) weigh(weight, &row);
  return row;
}

}  // namespace

Judged rounded(const Judged& row, RowFormat format) {
  if (format == RowFormat::f32) return row;
  const size_t columns = row.exact.size();
  Judged out(columns);
  if (format == RowFormat::bf16) {
    round_to_bfloat16(row, &out);
  } else {
    const double steps = format == RowFormat::int8 ? 127 : 32767;
    for (size_t first = 0; first < columns; first += kRowBlock)
      round_to_integers(steps, row, first, std::min(kRowBlock, columns - first), &out);
  }
  settle(&out);
  return out;
}

Judged multiplied(const Judged& row, const Weight& weight, size_t expert, const float* bias) {
  const size_t rows = weight.shape().rows, columns = weight.shape().columns;
  const double* x = row.exact.data();
  const double* error = row.bound.data();
  Judged out(rows);
  for (size_t r = 0; r < rows; ++r) {
    const double* w = weight.numbers(expert, r);
    double sum = 0, terms = 0, carried = 0;
    for (size_t c = 0; c < columns; ++c) {
      sum += x[c] * w[c];
      terms += std::fabs(x[c] * w[c]);
      carried += error[c] * std::fabs(w[c]);
    }
    const double added = bias ? double(bias[r]) : 0;
    const double length = double(columns) + 4;
    out.exact[r] = sum + added;
    out.bound[r] = carried + gamma_of(length) * (terms + carried + std::fabs(added)) +
                   length * kUnderflow;
  }
  settle(&out);
  return out;
}

Judged experts_twin(const Problem& p, const Data& data) {
  Judged y(data.tokens * p.output);
  for (size_t t = 0; t < data.tokens; ++t) {
    std::vector<double> size(p.output);
    for (size_t k = 0; k < p.top_k; ++k) {
      const int32_t id = data.topk_ids[t * p.top_k + k];
      if (id < 0 || size_t(id) >= p.experts) continue;
      const double weight = data.topk_weights[t * p.top_k + k];
      const Judged row = answer(p, data, t, size_t(id), weight);
      for (size_t c = 0; c < p.output; ++c) {
        y.exact[t * p.output + c] += row.exact[c];
        y.bound[t * p.output + c] += row.bound[c];
        if (std::isfinite(row.exact[c])) size[c] += std::fabs(row.exact[c]) + row.bound[c];
      }
    }
    const double top_k = double(p.top_k);
    for (size_t c = 0; c < p.output; ++c)
      y.bound[t * p.output + c] += gamma_of(top_k + 1) * size[c] + (top_k + 1) * kUnderflow;
  }
  return y;
}

Judged combine_twin(const float* y_sorted, const std::vector<int32_t>& order, const float* weights,
                    size_t tokens, size_t top_k, size_t columns) {
  Judged y(tokens * columns);
  for (size_t s = 0; s < order.size(); ++s) {
    if (order[s] < 0 || size_t(order[s]) >= tokens * top_k) continue;
    const size_t token = size_t(order[s]) / top_k;
    for (size_t c = 0; c < columns; ++c) {
      const double term = double(y_sorted[s * columns + c]) * double(weights[order[s]]);
      y.exact[token * columns + c] += term;
      y.bound[token * columns + c] += gamma_of(double(top_k) + 1) * std::fabs(term);
    }
  }
  for (double& bound : y.bound) bound += double(top_k + 1) * kUnderflow;
  return y;
}

std::string fault_of(const Judged& judged, const float* y) {
  for (size_t i = 0; i < judged.exact.size(); ++i) {
    const double exact = judged.exact[i], bound = judged.bound[i], computed = y[i];
    const bool is_right = std::isinf(bound)   ? true
                          : std::isnan(exact) ? std::isnan(computed)
                          : std::isinf(exact) ? computed == exact
                                              : std::fabs(computed - exact) <= bound;
    if (!is_right)
      return words("number %zu is %.9g, exactly it is %.9g +- %.3g", i, computed, exact, bound);
  }
  return "";
}

}  // namespace moe::tests
