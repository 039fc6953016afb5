#include "tensor.h"

namespace moe_ort {

void check(const OrtApi* api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw Fault(message);
}

size_t Tensor::elements() const {
  size_t count = 1;
  for (size_t axis = 0; axis < rank; ++axis) count *= dim(axis);
  return count;
}

namespace {

// Releases the description of a tensor however the reading ends.
struct Info {
  const OrtApi* api;
  ort_abi::OrtTensorTypeAndShapeInfo* info = nullptr;
  ~Info() {
    if (info != nullptr) api->ReleaseTensorTypeAndShapeInfo(info);
  }
};

}  // namespace

Tensor read_tensor(const OrtApi* api, const OrtValue* value) {
  Tensor tensor;
  if (value == nullptr) return tensor;
  Info info{api};
  check(api, api->GetTensorTypeAndShape(value, &info.info));
  check(api, api->GetTensorElementType(info.info, &tensor.type));
  check(api, api->GetDimensionsCount(info.info, &tensor.rank));
  if (tensor.rank > kMaxRank) {
    throw Fault("a tensor has " + std::to_string(tensor.rank) + " axes, expected at most " +
                std::to_string(kMaxRank));
  }
  check(api, api->GetDimensions(info.info, tensor.dims, tensor.rank));
  void* data = nullptr;
  // The interface has no reader of constant data; nothing is written through this pointer.
  check(api, api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  tensor.present = true;
  return tensor;
}

const char* type_name(ONNXTensorElementDataType type) {
  switch (type) {
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return "int8";
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return "float16";
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return "bfloat16";
    case ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4: return "int4";
    default: return "of another type";
  }
}

std::string describe(const Tensor& tensor) {
  std::string text = std::string(type_name(tensor.type)) + " [";
  for (size_t axis = 0; axis < tensor.rank; ++axis) {
    text += (axis ? ", " : "") + std::to_string(tensor.dims[axis]);
  }
  return text + "]";
}

namespace {

bool fits(const Tensor& tensor, Axes axes) {
  if (tensor.rank != axes.size()) return false;
  size_t at = 0;
  for (const Axis& axis : axes) {
    if (axis.size != Axis::kAny && axis.size != tensor.dims[at]) return false;
    ++at;
  }
  return true;
}

std::string describe(Axes axes) {
  std::string text;
  for (const Axis& axis : axes) {
    text += text.empty() ? "[" : ", ";
    text += axis.letter;
    if (axis.size != Axis::kAny) text += "=" + std::to_string(axis.size);
  }
  return text + "]";
}

}  // namespace

void refuse(const Place& place, const std::string& what) {
  throw Fault(place.node + ": input '" + place.input + "' " + what);
}

void expect(const Place& place, const Tensor& tensor, ONNXTensorElementDataType type, Axes axes) {
  if (tensor.present && tensor.type == type && fits(tensor, axes)) return;
  refuse(place, (tensor.present ? "is " + describe(tensor) : "is missing") + ", expected " +
                    type_name(type) + " " + describe(axes));
}

}  // namespace moe_ort
