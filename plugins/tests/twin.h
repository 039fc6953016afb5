// What the ops compute, once more: double precision, one number after the other, with the bound of
// a float32 implementation's error beside each number.  The bounds are those of
// moe_export/moe/tolerance.py and row_errors.py, derived there.
#ifndef MOE_EXPORT_PLUGINS_TESTS_TWIN_H_
#define MOE_EXPORT_PLUGINS_TESTS_TWIN_H_

#include <limits>
#include <string>
#include <vector>

#include "problem.h"

namespace moe::tests {

constexpr double kEps = std::numeric_limits<float>::epsilon();
constexpr double kUnderflow = std::numeric_limits<float>::min();

// The relative error that n roundings may leave.
inline double gamma_of(double n) { return n * kEps / (1 - n * kEps); }

// Numbers and what an implementation's may be off by.
struct Judged {
  std::vector<double> exact, bound;
  explicit Judged(size_t count = 0) : exact(count), bound(count) {}
};

// A row as row_format rounds it.
Judged rounded(const Judged& row, RowFormat format);

// row times expert `expert` of the matrix, plus bias [rows] where there is one.
Judged multiplied(const Judged& row, const Weight& weight, size_t expert, const float* bias);

// y [T, Hout] of the Experts op.
Judged experts_twin(const Problem& problem, const Data& data);

// y [T, N] of the Combine op.
Judged combine_twin(const float* y_sorted, const std::vector<int32_t>& order, const float* weights,
                    size_t tokens, size_t top_k, size_t columns);

// Empty where each of y's numbers lies within its bound, is NaN where the exact one is, and infinite
// where the exact one is; else what is wrong.  An infinite bound bounds nothing.
std::string fault_of(const Judged& judged, const float* y);

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_TWIN_H_
