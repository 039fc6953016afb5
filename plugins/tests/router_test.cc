// Router, against its twin in double precision.  Bounds and margins are those of
// moe_export/moe/tolerance.py.
#include <algorithm>
#include <cmath>
#include <limits>

#include "check.h"
#include "pool.h"
#include "random.h"
#include "twin.h"

namespace moe::tests {
namespace {

const double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kFunctionRoundings = 4;

struct Routing {
  RouterSpec spec;
  size_t tokens;
  Block<float> logits, bias, scale;
};

struct Choice {
  Block<float> weights;
  Block<int32_t> ids;
};

RouterSpec spec_of(size_t experts, size_t top_k, Score score) {
  return {experts, top_k, score, false, 0, 0, 1, 1, GroupScore::max, 1};
}

Choice run(const Routing& p, const Parallel& parallel) {
  const size_t count = p.tokens * p.spec.top_k;
  Choice choice{Block<float>(count), Block<int32_t>(count)};
  route(p.spec, p.logits.data(), p.bias.or_null(), p.scale.or_null(), p.tokens,
        choice.weights.data(), choice.ids.data(), parallel);
  return choice;
}

// Scores of a row and the bound of their relative error.
Judged softmax(const std::vector<double>& logits) {
  Judged probs(logits.size());
  double largest = -HUGE_VAL, sum = 0, of_sum = 0;
  for (const double x : logits)
    if (x > largest) largest = x;
  std::vector<double> own(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const double x = logits[i];
    probs.exact[i] = std::isinf(largest) ? kNaN : std::isnan(x) ? 0 : std::exp(x - largest);
    sum += probs.exact[i];
    own[i] = ((probs.exact[i] > 0 ? std::fabs(x - largest) : 0) + kFunctionRoundings) * kEps;
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    probs.exact[i] /= sum;
    of_sum += probs.exact[i] * own[i];
  }
  of_sum += gamma_of(double(logits.size()));
  for (size_t i = 0; i < logits.size(); ++i) {
    probs.bound[i] = own[i] + of_sum + kEps;
    if (std::isnan(logits[i])) probs.exact[i] = kNaN;
  }
  return probs;
}

Judged sigmoid(const std::vector<double>& logits) {
  Judged probs(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    probs.exact[i] = 1 / (1 + std::exp(-logits[i]));
    probs.bound[i] = (kFunctionRoundings + 2) * kEps;
  }
  return probs;
}

bool is_softmax(Score score) { return score == Score::softmax || score == Score::softmax_topk; }
bool is_late(Score score) { return score == Score::softmax_topk || score == Score::sigmoid_topk; }

// The scores by which experts are chosen, before groups, with absolute bounds.
Judged ranks_of(const Routing& p, const std::vector<double>& logits) {
  const size_t n = logits.size();
  Judged ranks(n);
  if (is_late(p.spec.score)) {
    ranks.exact = logits;
  } else {
    ranks = is_softmax(p.spec.score) ? softmax(logits) : sigmoid(logits);
    for (size_t e = 0; e < n; ++e)
      ranks.bound[e] = std::fabs(ranks.exact[e]) * ranks.bound[e] + kUnderflow;
  }
  for (size_t e = 0; e < n; ++e) {
    if (p.bias.size()) {
      ranks.exact[e] += p.bias[e];
      ranks.bound[e] += kEps * (std::fabs(ranks.exact[e]) + ranks.bound[e]);
    }
    if (std::isnan(ranks.exact[e]))
      ranks.exact[e] = -1e38, ranks.bound[e] = 0;
    else if (std::fabs(ranks.exact[e]) > double(1e37f))
      ranks.exact[e] = std::copysign(double(1e37f), ranks.exact[e]), ranks.bound[e] = 0;
  }
  return ranks;
}

std::vector<size_t> descending(const std::vector<double>& of) {
  std::vector<size_t> order(of.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return of[a] > of[b]; });
  return order;
}

// Puts experts outside the best groups at -inf.  The gap between the last group chosen and the
// first that is not.
double shut_groups(const RouterSpec& spec, std::vector<double>* ranks) {
  if (spec.num_groups == 1) return HUGE_VAL;
  const size_t size = spec.num_experts / spec.num_groups;
  std::vector<double> scores;
  for (size_t g = 0; g < spec.num_groups; ++g) {
    std::vector<double> group(ranks->begin() + ptrdiff_t(g * size),
                              ranks->begin() + ptrdiff_t((g + 1) * size));
    std::sort(group.rbegin(), group.rend());
    scores.push_back(spec.group_score == GroupScore::max ? group[0] : group[0] + group[1]);
  }
  const std::vector<size_t> order = descending(scores);
  for (size_t i = spec.topk_groups; i < order.size(); ++i)
    for (size_t e = 0; e < size; ++e) (*ranks)[order[i] * size + e] = -HUGE_VAL;
  if (spec.topk_groups == spec.num_groups) return HUGE_VAL;
  return scores[order[spec.topk_groups - 1]] - scores[order[spec.topk_groups]];
}

// topk_weights of one token for the experts chosen.
Judged weights_of(const Routing& p, const std::vector<double>& logits, const int32_t* ids) {
  const RouterSpec& spec = p.spec;
  Judged weights(spec.top_k);
  std::vector<double> chosen;
  for (size_t k = 0; k < spec.top_k; ++k) chosen.push_back(logits[size_t(ids[k])]);
  if (is_late(spec.score)) {
    // A NaN among the chosen is in the sum.
    bool is_nan = false;
    for (const double x : chosen) is_nan = is_nan || std::isnan(x);
    weights = is_softmax(spec.score) ? softmax(chosen) : sigmoid(chosen);
    if (is_nan && is_softmax(spec.score))
      for (double& x : weights.exact) x = kNaN;
  } else {
    const Judged all = is_softmax(spec.score) ? softmax(logits) : sigmoid(logits);
    for (size_t k = 0; k < spec.top_k; ++k) {
      weights.exact[k] = all.exact[size_t(ids[k])];
      weights.bound[k] = all.bound[size_t(ids[k])];
    }
  }
  std::vector<double> absolute(spec.top_k, kUnderflow);
  if (spec.normalize) {
    double total = 0, worst = 0;
    for (size_t k = 0; k < spec.top_k; ++k) {
      total += weights.exact[k];
      worst = std::max(worst, weights.bound[k]);
    }
    total += double(spec.normalize_eps);
    if (total < double(spec.normalize_min)) total = double(spec.normalize_min);
    const double divisor = std::max(total, kUnderflow);
    for (size_t k = 0; k < spec.top_k; ++k) {
      weights.exact[k] /= total;
      absolute[k] = (absolute[k] + std::fabs(weights.exact[k]) * double(spec.top_k) * kUnderflow) /
                        divisor + kUnderflow;
      weights.bound[k] += worst + gamma_of(double(spec.top_k) + 2) + kEps;
      // A sum that float32 may flush to 0: nothing can be said, NaN included.
      if (total < kUnderflow) weights.bound[k] = HUGE_VAL;
    }
  }
  for (size_t k = 0; k < spec.top_k; ++k) {
    const double scale = p.scale.size() ? double(p.scale[size_t(ids[k])]) : 1;
    const double factor = std::fabs(double(spec.routed_scaling));
    weights.exact[k] *= scale * double(spec.routed_scaling);
    double relative = weights.bound[k] + 3 * kEps;
    relative /= std::max(1 - relative, 0.5);
    weights.bound[k] = std::fabs(weights.exact[k]) * relative +
                       absolute[k] * std::fabs(scale) * factor + kUnderflow;
  }
  return weights;
}

bool same_inputs(const Routing& p, const std::vector<double>& logits, size_t a, size_t b) {
  return logits[a] == logits[b] && (!p.bias.size() || p.bias[a] == p.bias[b]);
}

// Empty where the choice of one token is right: the exact one, or another within the error of float32.
std::string fault_of_choice(const Routing& p, const std::vector<double>& logits,
                            const int32_t* ids) {
  const RouterSpec& spec = p.spec;
  std::vector<bool> is_chosen(spec.num_experts);
  for (size_t k = 0; k < spec.top_k; ++k) {
    if (ids[k] < 0 || size_t(ids[k]) >= spec.num_experts)
      return words("id %d at k=%zu is no expert", ids[k], k);
    if (is_chosen[size_t(ids[k])]) return words("expert %d is chosen twice", ids[k]);
    is_chosen[size_t(ids[k])] = true;
  }
  Judged ranks = ranks_of(p, logits);
  const double error = *std::max_element(ranks.bound.begin(), ranks.bound.end());
  if (shut_groups(spec, &ranks.exact) <= 4 * error) return "";
  const std::vector<size_t> order = descending(ranks.exact);
  for (size_t k = 0; k < spec.top_k; ++k) {
    const size_t id = size_t(ids[k]);
    const double exact = ranks.exact[order[k]], got = ranks.exact[id];
    if (exact != got && !(std::fabs(exact - got) <= 2 * error))
      return words("expert %zu at k=%zu ranks at %.9g, expert %zu at %.9g", id, k, got, order[k],
                   exact);
    // Equal inputs have equal ranks in any arithmetic: the lower id comes first.
    for (size_t e = 0; e < id; ++e)
      if (same_inputs(p, logits, e, id) && ranks.exact[e] == got &&
          std::find(ids, ids + k, int32_t(e)) == ids + k)
        return words("expert %zu came before its equal %zu", id, e);
  }
  return "";
}

void judge(const Routing& p, const char* what) {
  const Choice choice = run(p, serial());
  for (size_t t = 0; t < p.tokens; ++t) {
    std::vector<double> logits(p.spec.num_experts);
    for (size_t e = 0; e < logits.size(); ++e) logits[e] = p.logits[t * logits.size() + e];
    const int32_t* ids = &choice.ids[t * p.spec.top_k];
    std::string fault = fault_of_choice(p, logits, ids);
    if (fault.empty())
      fault = fault_of(weights_of(p, logits, ids), &choice.weights[t * p.spec.top_k]);
    CHECK(fault.empty(), "%s: token %zu of %s", fault.c_str(), t, what);
  }
}

enum class Logits { normal, tied, wide, hostile };

Routing problem_of(const RouterSpec& spec, size_t tokens, Logits kind, int inputs, uint64_t seed) {
  Random random(seed);
  Routing p{spec, tokens, Block<float>(tokens * spec.num_experts), {}, {}};
  const float infinity = std::numeric_limits<float>::infinity();
  for (float& x : p.logits) {
    x = float(2 * random.normal());
    if (kind == Logits::tied) x = std::rint(x);
    if (kind == Logits::wide) x *= random.one_in(2) ? 40.0f : 1e-6f;
    if (kind == Logits::hostile && random.one_in(2))
      x = random.of(std::vector<float>{std::nanf(""), std::nanf(""), infinity, -infinity, 1e38f});
  }
  if (kind == Logits::hostile && tokens > 2) {
    std::fill(p.logits.begin(), p.logits.begin() + spec.num_experts, std::nanf(""));
    std::fill(p.logits.begin() + spec.num_experts, p.logits.begin() + 2 * spec.num_experts,
              -infinity);
  }
  if (inputs & 1) p.bias = Block<float>(spec.num_experts);
  if (inputs & 2) p.scale = Block<float>(spec.num_experts);
  for (float& x : p.bias) x = float(random.normal());
  for (float& x : p.scale) x = float(0.5 + random.uniform());
  return p;
}

std::vector<RouterSpec> all_specs() {
  std::vector<RouterSpec> specs;
  for (const Score score :
       {Score::softmax, Score::sigmoid, Score::softmax_topk, Score::sigmoid_topk})
    for (const bool normalize : {false, true}) {
      for (const auto& [experts, top_k] : std::vector<std::pair<size_t, size_t>>{
               {1, 1}, {8, 1}, {8, 2}, {8, 8}, {33, 5}, {128, 8}}) {
        RouterSpec spec = spec_of(experts, top_k, score);
        spec.normalize = normalize;
        specs.push_back(spec);
      }
      for (const GroupScore group_score : {GroupScore::max, GroupScore::top2_sum})
        for (const size_t groups : {2, 4, 8}) {
          RouterSpec spec = spec_of(32, 4, score);
          spec.normalize = normalize;
          spec.group_score = group_score;
          spec.num_groups = groups;
          spec.topk_groups = groups / 2;
          specs.push_back(spec);
        }
    }
  return specs;
}

TEST(router_is_within_its_bound_and_chooses_the_same_experts) {
  uint64_t seed = 1;
  for (const RouterSpec& spec : all_specs())
    for (const Logits kind : {Logits::normal, Logits::tied, Logits::wide, Logits::hostile})
      for (int inputs = 0; inputs < 4; ++inputs) {
        const std::string what =
            words("score %d, E=%zu, K=%zu, groups %zu, normalize %d, logits %d, inputs %d, seed %zu",
                  int(spec.score), spec.num_experts, spec.top_k, spec.num_groups, spec.normalize,
                  int(kind), inputs, size_t(seed));
        judge(problem_of(spec, 13, kind, inputs, seed++), what.c_str());
      }
}

TEST(router_normalizes_and_scales_within_its_bound) {
  uint64_t seed = 1;
  for (const Score score : {Score::softmax, Score::sigmoid})
    for (const float eps : {0.0f, 1e-20f, 0.25f})
      for (const float smallest : {0.0f, 0.7f})
        for (const float scaling : {1.0f, 2.5f, -0.3f}) {
          RouterSpec spec = spec_of(16, 4, score);
          spec.normalize = true;
          spec.normalize_eps = eps;
          spec.normalize_min = smallest;
          spec.routed_scaling = scaling;
          judge(problem_of(spec, 9, Logits::normal, 3, seed), words("seed %zu", size_t(seed)).c_str());
          ++seed;
        }
}

TEST(of_equal_experts_the_lower_id_comes_first_among_groups_too) {
  for (const GroupScore group_score : {GroupScore::max, GroupScore::top2_sum}) {
    RouterSpec spec = spec_of(12, 4, Score::sigmoid);
    spec.num_groups = 4;
    spec.topk_groups = 2;
    spec.group_score = group_score;
    Routing p{spec, 1, Block<float>(std::vector<float>(12, 0.5f)), {}, {}};
    const Choice choice = run(p, serial());
    for (int k = 0; k < 4; ++k) CHECK(choice.ids[size_t(k)] == k, "k=%d", k);
  }
}

TEST(bad_logits_give_what_the_table_says) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  struct Row {
    const char* what;
    Score score;
    bool normalize;
    std::vector<float> logits;
    std::vector<int32_t> ids;
    std::vector<bool> is_nan;
  };
  const std::vector<Row> rows = {
      {"some NaN, enough numbers", Score::softmax, false, {nan, 1, 2, nan}, {2, 1}, {false, false}},
      {"fewer than K numbers", Score::softmax, false, {nan, nan, 2, nan}, {2, 0}, {false, true}},
      {"the same, normalized", Score::softmax, true, {nan, nan, 2, nan}, {2, 0}, {true, true}},
      {"the same, softmax late", Score::softmax_topk, false, {nan, nan, 2, nan}, {2, 0}, {true, true}},
      {"the same, sigmoid late", Score::sigmoid_topk, false, {nan, nan, 2, nan}, {2, 0}, {false, true}},
      {"all NaN", Score::sigmoid, false, {nan, nan, nan, nan}, {0, 1}, {true, true}},
      {"+inf under softmax", Score::softmax, false, {0, 1, infinity, 2}, {0, 1}, {true, true}},
      {"all -inf", Score::softmax, false, {-infinity, -infinity, -infinity, -infinity}, {0, 1}, {true, true}},
      {"+-inf under sigmoid", Score::sigmoid, false, {-infinity, 1, infinity, 2}, {2, 3}, {false, false}},
      {"infinities tie", Score::softmax_topk, false, {1, infinity, 2, infinity}, {1, 3}, {true, true}},
  };
  for (const Row& row : rows) {
    RouterSpec spec = spec_of(4, 2, row.score);
    spec.normalize = row.normalize;
    const Routing p{spec, 1, Block<float>(row.logits), {}, {}};
    const Choice choice = run(p, serial());
    for (size_t k = 0; k < 2; ++k) {
      CHECK(choice.ids[k] == row.ids[k], "id %d at k=%zu: %s", choice.ids[k], k, row.what);
      CHECK(std::isnan(choice.weights[k]) == row.is_nan[k], "weight %g at k=%zu: %s",
            choice.weights[k], k, row.what);
    }
  }
}

TEST(a_token_is_routed_alike_alone_in_a_batch_and_on_any_thread) {
  uint64_t seed = 1;
  for (const RouterSpec& spec : all_specs()) {
    const Routing p = problem_of(spec, 150, seed % 2 ? Logits::normal : Logits::hostile, 3, seed);
    const Choice expected = run(p, serial());
    for (size_t threads = 1; threads <= 3; ++threads) {
      Pool pool(threads, Order::shuffled, seed);
      const Choice choice = run(p, pool.parallel());
      CHECK(same_bits(choice.weights.data(), expected.weights.data(), choice.weights.size()),
            "%zu threads, seed %zu", threads, size_t(seed));
      CHECK(std::equal(choice.ids.data(), choice.ids.data() + choice.ids.size(),
                       expected.ids.data()), "%zu threads, seed %zu", threads, size_t(seed));
    }
    Routing alone = p;
    alone.tokens = 1;
    alone.logits = Block<float>(spec.num_experts);
    for (size_t e = 0; e < spec.num_experts; ++e)
      alone.logits[e] = p.logits[77 * spec.num_experts + e];
    const Choice choice = run(alone, serial());
    CHECK(same_bits(choice.weights.data(), &expected.weights[77 * spec.top_k], spec.top_k),
          "seed %zu", size_t(seed));
    ++seed;
  }
}

TEST(no_tokens_are_routed_nowhere) {
  const Routing p{spec_of(8, 2, Score::softmax), 0, {}, {}, {}};
  CHECK(run(p, serial()).ids.size() == 0, "ids out of nothing");
}

}  // namespace
}  // namespace moe::tests
