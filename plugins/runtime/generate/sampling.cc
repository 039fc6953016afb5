#include "generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/error.h"

namespace moe::runtime {

namespace {

// The first of the highest, or of those that are no number if there is any.
template <typename Number>
size_t likeliest(const Number* scores, size_t count) {
  size_t best = 0;
  for (size_t i = 0; i < count; ++i) {
    if (std::isnan(scores[i])) return i;
    if (scores[i] > scores[best]) best = i;
  }
  return best;
}

void refuse_nan(double score, uint64_t step) {
  if (!std::isnan(score)) return;
  throw Error(Kind::unsupported, "the model's logits are not numbers",
              "token " + std::to_string(step + 1) + " of the answer",
              "validate the bundle on this machine: moe-export validate BUNDLE");
}

void penalise(std::vector<double>* scores, double penalty, const std::unordered_set<int64_t>& said) {
  for (const int64_t token : said) {
    if (token < 0 || static_cast<size_t>(token) >= scores->size()) continue;
    double& score = (*scores)[static_cast<size_t>(token)];
    score = score < 0 ? score * penalty : score / penalty;
  }
}

// The scores by descending order: all, or the first `top_k`.
std::vector<double> highest(const std::vector<double>& scores, int64_t top_k) {
  std::vector<double> values = scores;
  if (top_k > 0 && static_cast<size_t>(top_k) < values.size()) {
    const auto end = values.begin() + top_k;
    std::nth_element(values.begin(), end - 1, values.end(), std::greater<>());
    values.erase(end, values.end());
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

// One of the scores: the first whose running sum of probabilities is above `chance`.  They count by
// descending score, lower ids first where two are equal.
size_t drawn(const std::vector<double>& scores, const Options& options, double chance) {
  const std::vector<double> values = highest(scores, options.top_k);
  std::vector<double> sums;
  sums.reserve(values.size());
  double whole = 0;
  for (const double value : values) whole += sums.emplace_back(std::exp(value - values[0]));
  double running = 0;
  for (double& sum : sums) sum = running += sum / whole;
  if (options.top_p < 1) {
    const auto end = std::lower_bound(sums.begin(), sums.end(), options.top_p);
    if (end != sums.end()) sums.erase(end + 1, sums.end());
  }
  const auto above = std::upper_bound(sums.begin(), sums.end(), chance * sums.back());
  const size_t place = std::min(static_cast<size_t>(above - sums.begin()), sums.size() - 1);
  // Values are sorted and not ids, which takes longer: it is that of equal ones which is as far behind
  // the first of them.
  const auto first = std::find(values.begin(), values.end(), values[place]);
  size_t before = place - static_cast<size_t>(first - values.begin());
  for (size_t id = 0;; ++id) {
    if (scores[id] == values[place] && before-- == 0) return id;
  }
}

}  // namespace

double uniform(uint64_t seed, uint64_t step) {
  // Steele, Lea, Flood 2014: the step of its counter and the multipliers of its mixer.
  uint64_t z = seed + (step + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ z >> 31) >> 11) * 0x1p-53;
}

int64_t next_token(const float* logits, size_t vocabulary, const Options& options,
                   const std::unordered_set<int64_t>& said, uint64_t step) {
  if (vocabulary == 0) throw Error(Kind::unsupported, "the model has no logits");
  if (options.temperature == 0 && options.repetition_penalty == 1) {
    const size_t best = likeliest(logits, vocabulary);
    refuse_nan(static_cast<double>(logits[best]), step);
    return static_cast<int64_t>(best);
  }
  std::vector<double> scores(logits, logits + vocabulary);
  if (options.repetition_penalty != 1) penalise(&scores, options.repetition_penalty, said);
  if (options.temperature > 0) {
    for (double& score : scores) score /= options.temperature;
  }
  const size_t best = likeliest(scores.data(), vocabulary);
  refuse_nan(scores[best], step);
  // Beside an infinite one nothing has a probability.
  if (options.temperature == 0 || std::isinf(scores[best])) return static_cast<int64_t>(best);
  return static_cast<int64_t>(drawn(scores, options, uniform(options.seed, step)));
}

}  // namespace moe::runtime
