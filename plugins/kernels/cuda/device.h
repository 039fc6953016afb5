// The kernels of one context, and how one is launched.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_DEVICE_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <type_traits>

#include "../moe_cuda.h"
#include "driver.h"
#include "kernel_table.h"

namespace moe::cuda {

struct Device {
  const Driver* driver;
  int compute_capability;
  int sm;  // whose code it runs
  Function functions[kKernels];
};

// Blocks along x and y.  y is at most 65535, so what grows with tokens goes along x.
struct Grid {
  size_t x, y = 1;
};

constexpr size_t blocks(size_t count, size_t block) { return (count + block - 1) / block; }

// An argument of a kernel: a pointer, an int32 or a float.
struct Argument {
  union {
    const void* pointer;
    int32_t integer;
    float number;
  };
  char letter;

  Argument(const void* value) : pointer(value), letter('p') {}
  Argument(int32_t value) : integer(value), letter('i') {}
  Argument(bool value) : integer(value), letter('i') {}
  Argument(float value) : number(value), letter('f') {}
  // A size that somebody checked to fit: fits().
  Argument(size_t value) : integer(int32_t(value)), letter('i') {}
};

constexpr bool fits(size_t value) { return value <= INT32_MAX; }

// Null, or what went wrong.  A grid without blocks launches nothing.
const char* launch(const Device* device, Kernel kernel, Grid grid, Stream stream,
                   const Argument* arguments, size_t count);

template <size_t N>
const char* launch(const Device* device, Kernel kernel, Grid grid, Stream stream,
                   const Argument (&arguments)[N]) {
  return launch(device, kernel, grid, stream, arguments, N);
}

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_DEVICE_H_
