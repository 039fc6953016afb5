// How an op takes its scratch memory apart, and shares out its work.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CPU_TASKS_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CPU_TASKS_H_

#include "../moe_kernels.h"
#include "panels.h"

namespace moe {

// Below this a second thread costs more to wake than it saves (some 10 us of one core).
constexpr size_t kSerialProducts = size_t(1) << 17;

// Takes aligned pieces from a scratch buffer, or only counts them where it has none.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<uint8_t*>(base)) {}

  template <class T>
  T* take(size_t count) {
    const size_t at = used_;
    used_ += round_up(count * sizeof(T), kAlignment);
    return base_ ? reinterpret_cast<T*>(base_ + at) : nullptr;
  }

  size_t used() const { return used_; }

 private:
  uint8_t* base_;
  size_t used_ = 0;
};

// Calls body(i) for i in [0, count) on the pool, or here where the work is small.
template <class Body>
void for_each(const Parallel& parallel, size_t count, size_t products_each, const Body& body) {
  const auto task = [](void* argument, size_t i) { (*static_cast<const Body*>(argument))(i); };
  const bool small = count < 2 || count * products_each < kSerialProducts;
  const Parallel by = small ? serial() : parallel;
  by.run(by.pool, count, task, const_cast<Body*>(&body));
}

}  // namespace moe

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CPU_TASKS_H_
