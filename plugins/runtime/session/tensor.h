// What a graph gives: a tensor where ONNX Runtime put it, without a copy.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TENSOR_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TENSOR_H_

#include "core/array.h"
#include "session/library.h"

namespace moe::runtime {

class Tensor {
 public:
  // Of a value that is a tensor of numbers; Error(unsupported) for anything else.
  explicit Tensor(OrtOwned<ort::OrtValue> value);
  // Of the library's own making.
  explicit Tensor(Array array);

  DType dtype() const { return view_.dtype; }
  const std::vector<int64_t>& shape() const { return view_.shape; }
  const void* data() const { return view_.data; }
  size_t bytes() const { return view_.bytes; }
  // Valid as long as the tensor.
  const View& view() const { return view_; }

 private:
  OrtOwned<ort::OrtValue> value_;
  Array array_;
  View view_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TENSOR_H_
