// A CUDA driver whose device is the PTX executor: what its files share.
//
// Calls are those of cuda.h by name and signature; everything is done when a call returns, and streams
// only have to exist.  An error keeps its words: mock_cuda_last_error(), and cuGetErrorString() of it.
#ifndef MOE_EXPORT_TOOLS_PTX_MOCK_H_
#define MOE_EXPORT_TOOLS_PTX_MOCK_H_

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

namespace mock {

using Result = int;  // CUresult
using DevicePointer = unsigned long long;

// Numbers of cuda.h.
enum : Result {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotFound = 500,
  kIllegalAddress = 700,
  kLaunchFailed = 719,
  kNotSupported = 801,
};

// All calls hold it: the executor has one launch at a time.
std::mutex& lock();

// Keeps the words and returns the error.
Result error(Result result, std::string words);
const char* last_error();

// Null where all guard zones are whole, else which one is not.
const char* broken_guard();
bool is_stream(void* stream);
bool has_context();

// 10 * major + minor; MOE_EXPORT_MOCK_CAPABILITY sets it, 80 if it is not there.
int capability();
// Bytes of shared memory that a block of such a device may have.
int shared_limit();

}  // namespace mock

#define MOCK_API extern "C" __attribute__((visibility("default")))

#endif  // MOE_EXPORT_TOOLS_PTX_MOCK_H_
