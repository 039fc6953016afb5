// Threads that take their tasks in an order meant to hurt.
#ifndef MOE_EXPORT_PLUGINS_TESTS_POOL_H_
#define MOE_EXPORT_PLUGINS_TESTS_POOL_H_

#include <atomic>
#include <thread>
#include <vector>

#include "moe_kernels.h"
#include "random.h"

namespace moe::tests {

enum class Order { forward, reversed, shuffled };

class Pool {
 public:
  Pool(size_t threads, Order order, uint64_t seed = 1)
      : threads_(threads), order_(order), random_(seed) {}

  Parallel parallel() { return {run, this}; }
  // Tasks handed to the pool so far.
  size_t tasks() const { return tasks_; }

 private:
  static void run(void* pool, size_t count, void (*task)(void*, size_t), void* argument) {
    static_cast<Pool*>(pool)->run_all(count, task, argument);
  }

  void run_all(size_t count, void (*task)(void*, size_t), void* argument) {
    std::vector<size_t> order(count);
    for (size_t i = 0; i < count; ++i) order[i] = order_ == Order::reversed ? count - 1 - i : i;
    if (order_ == Order::shuffled) order = random_.order(count);
    tasks_ += count;
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i; (i = next++) < count;) task(argument, order[i]);
    };
    std::vector<std::thread> others;
    for (size_t i = 1; i < threads_; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  }

  size_t threads_;
  Order order_;
  Random random_;
  size_t tasks_ = 0;
};

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_POOL_H_
