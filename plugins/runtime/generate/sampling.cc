#include "generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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

// Ids by descending score, lower ids first where two are equal: all, or the first `top_k`.
std::vector<size_t> ordered(const std::vector<double>& scores, int64_t top_k) {
  std::vector<size_t> ids(scores.size());
  std::iota(ids.begin(), ids.end(), size_t{0});
  const auto before = [&](size_t a, size_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  };
  if (top_k > 0 && static_cast<size_t>(top_k) < ids.size()) {
    const auto end = ids.begin() + top_k;
    std::partial_sort(ids.begin(), end, ids.end(), before);
    ids.erase(end, ids.end());
  } else {
    std::sort(ids.begin(), ids.end(), before);
  }
  return ids;
}

// One of the scores: the first whose running sum of probabilities is above `chance`.
size_t drawn(const std::vector<double>& scores, const Options& options, double chance) {
  const std::vector<size_t> order = ordered(scores, options.top_k);
  std::vector<double> sums;
  sums.reserve(order.size());
  double whole = 0;
  for (const size_t id : order) sums.push_back(std::exp(scores[id] - scores[order[0]]));
  for (const double weight : sums) whole += weight;
  double running = 0;
  for (double& sum : sums) sum = running += sum / whole;
  if (options.top_p < 1) {
    const auto end = std::lower_bound(sums.begin(), sums.end(), options.top_p);
    if (end != sums.end()) sums.erase(end + 1, sums.end());
  }
  const auto place = std::upper_bound(sums.begin(), sums.end(), chance * sums.back());
  return order[std::min(static_cast<size_t>(place - sums.begin()), sums.size() - 1)];
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
