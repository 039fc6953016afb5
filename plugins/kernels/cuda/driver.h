// The CUDA driver, found at run time: only what is used, declared here.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_CUDA_DRIVER_H_
#define MOE_EXPORT_PLUGINS_KERNELS_CUDA_DRIVER_H_

namespace moe::cuda {

using Result = int;  // CUresult; 0 is success
using Context = void*;
using Module = void*;
using Function = void*;

// Numbers of cuda.h, which never change.
constexpr int kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76;
constexpr int kMaxDynamicSharedSize = 8;

struct Driver {
  Result (*get_context)(Context* context);
  Result (*get_context_id)(Context context, unsigned long long* id);  // null before CUDA 12.0
  Result (*get_device)(int* device);
  Result (*get_attribute)(int* value, int attribute, int device);
  Result (*load_module)(Module* module, const void* image);
  Result (*get_function)(Function* function, Module module, const char* name);
  Result (*set_function_attribute)(Function function, int attribute, int value);
  Result (*launch)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   void* stream, void** arguments, void** extra);
  Result (*error_string)(Result result, const char** words);
};

// The driver of this machine, loaded once; null with *why set where there is none.
const Driver* driver(const char** why);

// "WHAT: the driver's words (error N)", valid in this thread until the next call of says().
const char* failed(const Driver& driver, Result result, const char* what);

// The same storage for other words, as printf writes them.
__attribute__((format(printf, 1, 2))) const char* says(const char* format, ...);

}  // namespace moe::cuda

#endif  // MOE_EXPORT_PLUGINS_KERNELS_CUDA_DRIVER_H_
