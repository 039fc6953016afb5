// TensorRT as far as an engine is run through it, without its headers: session/nvinfer has what lies
// behind.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TENSORRT_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TENSORRT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/array.h"

namespace moe::runtime {

// A TensorRT, by the target that it serves; the twin of moe_export/engines/flavours.py.
struct Flavour {
  const char* target;
  const char* title;
  const char* library;  // without the number behind its name
};

// None where a target has no engines.
const Flavour* flavour_of(const std::string& target);

// An engine and a context that runs it, one run at a time.  What gives a bool is false where TensorRT
// does not do it; last_words() then says why.
class Plan {
 public:
  virtual ~Plan() = default;
  // None for a type that no array has.
  virtual std::optional<DType> dtype_of(const char* name) const = 0;
  virtual bool take_profile(int number, void* stream) = 0;
  virtual bool set_shape(const char* name, const std::vector<int64_t>& shape) = 0;
  // With -1 for a size that TensorRT cannot tell from those of the inputs.
  virtual std::vector<int64_t> shape_of(const char* name) const = 0;
  virtual bool set_address(const char* name, void* address) = 0;
  virtual bool enqueue(void* stream) = 0;
};

class TensorRt {
 public:
  // Loaded when it is first needed, and never unloaded.  Raises Error(environment) where this library was
  // built without the flavour, or it is not installed, or of another release.
  static const TensorRt& of(const Flavour& flavour);

  virtual ~TensorRt() = default;
  virtual std::string version() const = 0;
  // Once for each path.  False where TensorRT does not take it.
  virtual bool load_plugins(const std::string& path) const = 0;
  // Null where TensorRT does not load it; Error(environment) where TensorRT does not start.  `host_code`:
  // whether libraries in it may be loaded.
  virtual std::unique_ptr<Plan> deserialised(std::string_view plan, bool host_code) const = 0;
  // Of the last error on any thread: a line.
  virtual std::string last_words() const = 0;
};

// The library of a flavour: what MOE_EXPORT_TENSORRT names, or the system's `name`.  Raises
// Error(environment) where it is not there.
void* tensorrt_library(const Flavour& flavour, const std::string& name);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TENSORRT_H_
