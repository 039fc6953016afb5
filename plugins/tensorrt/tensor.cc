#include "tensor.h"

namespace moe_trt {

bool Tensor::is_empty() const {
  for (int32_t axis = 0; axis < dims.nbDims; ++axis) {
    if (dims.d[axis] == 0) return true;
  }
  return false;
}

const char* type_name(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return "f32";
    case DataType::kHALF: return "f16";
    case DataType::kBF16: return "bf16";
    case DataType::kINT8: return "int8";
    case DataType::kINT4: return "int4";
    case DataType::kINT32: return "int32";
    case DataType::kINT64: return "int64";
    case DataType::kBOOL: return "bool";
    case DataType::kUINT8: return "uint8";
    case DataType::kFP8: return "fp8";
    default: return "of another type";
  }
}

std::string describe(const Tensor& tensor) {
  std::string text = std::string(type_name(tensor.type)) + " [";
  for (int32_t axis = 0; axis < tensor.dims.nbDims; ++axis) {
    text += axis ? ", " : "";
    text += tensor.knows(axis) ? std::to_string(tensor.dims.d[axis]) : "?";
  }
  return text + "]";
}

namespace {

bool fits(const Tensor& tensor, Axes axes) {
  if (tensor.dims.nbDims != static_cast<int32_t>(axes.size())) return false;
  int at = 0;
  for (const Axis& axis : axes) {
    if (axis.size != kDynamic && tensor.knows(at) && axis.size != tensor.dims.d[at]) return false;
    ++at;
  }
  return true;
}

std::string describe(Axes axes) {
  std::string text;
  for (const Axis& axis : axes) {
    text += text.empty() ? "[" : ", ";
    text += axis.letter;
    if (axis.size != kDynamic) text += "=" + std::to_string(axis.size);
  }
  return text + "]";
}

}  // namespace

void refuse(const Place& place, const std::string& what) {
  throw Fault(place.node + ": input '" + place.input + "' " + what);
}

void expect(const Place& place, const Tensor& tensor, Axes axes) {
  if (tensor.present && fits(tensor, axes)) return;
  refuse(place, (tensor.present ? "is " + describe(tensor) : "is missing") + ", expected " +
                    describe(axes));
}

}  // namespace moe_trt
