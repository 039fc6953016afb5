// Random numbers, the same on every machine (SplitMix64, S. Vigna).
#ifndef MOE_EXPORT_PLUGINS_TESTS_RANDOM_H_
#define MOE_EXPORT_PLUGINS_TESTS_RANDOM_H_

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace moe::tests {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  size_t below(size_t n) { return size_t(bits() % n); }
  // In [first, last].
  size_t between(size_t first, size_t last) { return first + below(last - first + 1); }
  bool one_in(size_t n) { return below(n) == 0; }
  double uniform() { return double(bits() >> 11) * 0x1p-53; }
  // Mean 0, variance 1, within +-6: a sum of twelve.
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  template <class T>
  const T& of(const std::vector<T>& choices) {
    return choices[below(choices.size())];
  }
  // 0 .. n-1 in any order.
  std::vector<size_t> order(size_t n) {
    std::vector<size_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = i;
    for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[below(i)]);
    return order;
  }

 private:
  uint64_t state_;
};

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_RANDOM_H_
