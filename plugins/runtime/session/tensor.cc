#include "session/tensor.h"

namespace moe::runtime {

Tensor::Tensor(OrtOwned<ort::OrtValue> value) : value_(std::move(value)) {
  const ort::OrtApi* api = OnnxRuntime::here().api;
  ort::OrtTensorTypeAndShapeInfo* facts = nullptr;
  check(api->GetTensorTypeAndShape(value_.get(), &facts));
  const OrtOwned<ort::OrtTensorTypeAndShapeInfo> owned(facts);
  ort::ONNXTensorElementDataType type{};
  check(api->GetTensorElementType(facts, &type));
  view_.dtype = static_cast<DType>(type);
  if (*name_of(view_.dtype) == '?') {
    throw Error(Kind::unsupported, "an output is a tensor that this release cannot pass");
  }
  size_t rank = 0;
  check(api->GetDimensionsCount(facts, &rank));
  view_.shape.resize(rank);
  check(api->GetDimensions(facts, view_.shape.data(), rank));
  view_.bytes = static_cast<size_t>(elements_of(view_.shape)) * size_of(view_.dtype);
  check(api->GetTensorMutableData(value_.get(), &view_.data));
}

Tensor::Tensor(Array array) : array_(std::move(array)), view_(View::of(array_)) {}

}  // namespace moe::runtime
