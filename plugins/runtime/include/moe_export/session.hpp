// One graph of a bundle: arrays by name in, arrays by name out.
#ifndef MOE_EXPORT_SESSION_HPP_
#define MOE_EXPORT_SESSION_HPP_

#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "moe_export/bundle.hpp"

namespace moe {

// Where libraries are found and how many threads a run has; see moe_export.h.
struct Runtime {
  int threads = 0;
  std::string onnxruntime, kernels;
};

// The element type of a C++ type.
template <typename T>
constexpr moe_export_dtype dtype_of() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, float>) return MOE_EXPORT_FLOAT32;
  else if constexpr (std::is_same_v<U, double>) return MOE_EXPORT_FLOAT64;
  else if constexpr (std::is_same_v<U, bool>) return MOE_EXPORT_BOOL;
  else if constexpr (std::is_same_v<U, int8_t>) return MOE_EXPORT_INT8;
  else if constexpr (std::is_same_v<U, uint8_t>) return MOE_EXPORT_UINT8;
  else if constexpr (std::is_same_v<U, int16_t>) return MOE_EXPORT_INT16;
  else if constexpr (std::is_same_v<U, uint16_t>) return MOE_EXPORT_UINT16;
  else if constexpr (std::is_same_v<U, int32_t>) return MOE_EXPORT_INT32;
  else if constexpr (std::is_same_v<U, uint32_t>) return MOE_EXPORT_UINT32;
  else if constexpr (std::is_same_v<U, int64_t>) return MOE_EXPORT_INT64;
  else if constexpr (std::is_same_v<U, uint64_t>) return MOE_EXPORT_UINT64;
  else static_assert(!sizeof(U), "no tensor has elements of this type; give a dtype and bytes");
}

// A dense tensor in the caller's memory, which outlives it.  It is read where it lies.
struct Input {
  moe_export_dtype dtype = MOE_EXPORT_FLOAT32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  size_t bytes = 0;

  template <typename T>
  static Input of(const std::vector<T>& numbers, std::vector<int64_t> shape) {
    static_assert(!std::is_same_v<T, bool>, "vector<bool> has no bytes; use uint8_t and a dtype");
    return {dtype_of<T>(), std::move(shape), numbers.data(), numbers.size() * sizeof(T)};
  }
};

// What a run made, where the runtime put it.
class Tensor {
 public:
  moe_export_dtype dtype() const { return moe_export_tensor_dtype(handle_.get()); }
  std::vector<int64_t> shape() const {
    const int64_t* first = moe_export_tensor_shape(handle_.get());
    return {first, first + moe_export_tensor_rank(handle_.get())};
  }
  const void* data() const { return moe_export_tensor_data(handle_.get()); }
  size_t bytes() const { return moe_export_tensor_bytes(handle_.get()); }
  // The numbers; Error(usage) where they are of another type.
  template <typename T>
  const T* as() const {
    if (dtype() != dtype_of<T>()) throw Error(Kind::usage, "the tensor has another dtype");
    return static_cast<const T*>(data());
  }

 private:
  friend class Session;
  explicit Tensor(moe_export_tensor* made) : handle_(made) {}
  detail::Owned<moe_export_tensor> handle_;
};

// An input or an output of a graph: -1 where a size may vary, and the name that such a size has.
struct Port {
  std::string name, dtype;
  std::vector<int64_t> sizes;
  std::vector<std::string> size_names;
};

// One graph of a bundle: arrays by name in, arrays by name out.
class Session {
 public:
  explicit Session(const Bundle& bundle, const std::string& component = "model",
                   const Runtime& runtime = {}, const std::string& graph = "main") {
    moe_export_session_options options{};
    options.size = sizeof options;
    options.component = component.c_str();
    options.graph = graph.c_str();
    options.threads = runtime.threads;
    options.onnxruntime = detail::or_null(runtime.onnxruntime);
    options.kernels = detail::or_null(runtime.kernels);
    moe_export_session* made = nullptr;
    detail::check(moe_export_session_create(bundle.handle(), &options, &made));
    handle_.reset(made);
    for (Port& port : outputs()) output_names_.push_back(std::move(port.name));
  }

  std::vector<Port> inputs() const {
    return ports(moe_export_session_input_count(handle_.get()), moe_export_session_input);
  }
  std::vector<Port> outputs() const {
    return ports(moe_export_session_output_count(handle_.get()), moe_export_session_output);
  }

  // The named outputs, all where none is named.
  std::map<std::string, Tensor> run(const std::map<std::string, Input>& inputs,
                                    const std::vector<std::string>& outputs = {}) const {
    std::vector<moe_export_array> given;
    for (const auto& [name, input] : inputs) {
      given.push_back({name.c_str(), input.dtype, input.shape.size(), input.shape.data(),
                       input.data, input.bytes});
    }
    const std::vector<std::string>& wanted = outputs.empty() ? output_names_ : outputs;
    std::vector<const char*> names;
    for (const std::string& name : wanted) names.push_back(name.c_str());
    std::vector<moe_export_tensor*> tensors(wanted.size());
    detail::check(moe_export_session_run(handle_.get(), given.data(), given.size(), names.data(),
                                         names.size(), tensors.data()));
    std::map<std::string, Tensor> made;
    for (size_t i = 0; i < wanted.size(); ++i) made.emplace(wanted[i], Tensor(tensors[i]));
    return made;
  }

 private:
  template <typename At>
  std::vector<Port> ports(size_t count, At at) const {
    std::vector<Port> made;
    for (size_t i = 0; i < count; ++i) {
      const moe_export_port* port = at(handle_.get(), i);
      made.push_back({port->name, port->dtype, {port->sizes, port->sizes + port->rank},
                      {port->size_names, port->size_names + port->rank}});
    }
    return made;
  }
  detail::Owned<moe_export_session> handle_;
  std::vector<std::string> output_names_;
};

}  // namespace moe

#endif  // MOE_EXPORT_SESSION_HPP_
