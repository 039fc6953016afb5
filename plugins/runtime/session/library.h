// ONNX Runtime, loaded when it is first needed, and what goes wrong in it as this library's errors.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_LIBRARY_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_LIBRARY_H_

#include <memory>
#include <string>

#include "core/error.h"
#include "session/ort_api.h"

namespace moe::runtime {

// Loaded once for a process and never unloaded: its threads may still run when everything else ends.
struct OnnxRuntime {
  const ort::OrtApi* api;
  ort::OrtEnv* env;
  ort::OrtMemoryInfo* cpu;
  ort::OrtAllocator* allocator;
  std::string version;  // "1.32.0"
  std::string path;     // of the library; empty where the process had it already

  // `wanted` is a library, or a folder that holds one, such as the Python package onnxruntime; where
  // it is empty, what MOE_EXPORT_ONNXRUNTIME names counts, then the process's own, then the
  // system's.  Raises Error(environment) where there is none, or one older than 1.24, and Error(usage)
  // where this process uses another already.
  static const OnnxRuntime& loaded(const std::string& wanted);
  // The one that is loaded.
  static const OnnxRuntime& here();

  bool is_at_least(int major, int minor) const;
};

// Releases what ONNX Runtime made.
struct OrtRelease {
  void operator()(ort::OrtSession* made) const;
  void operator()(ort::OrtSessionOptions* made) const;
  void operator()(ort::OrtRunOptions* made) const;
  void operator()(ort::OrtValue* made) const;
  void operator()(ort::OrtTypeInfo* made) const;
  void operator()(ort::OrtTensorTypeAndShapeInfo* made) const;
  void operator()(ort::OrtStatus* made) const;
};
template <typename T>
using OrtOwned = std::unique_ptr<T, OrtRelease>;

// What a call of ONNX Runtime did not do.
struct OrtFailure {
  ort::OrtErrorCode code;
  std::string message;  // a line
  bool out_of_memory() const;
};

// Throws an OrtFailure unless the status is none.
void check(ort::OrtStatus* status);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_LIBRARY_H_
