#include "node.h"

#include <cstdlib>

namespace moe_ort {

namespace {

// Asks twice, as the interface wants it: for the size, then for the text.  Null is a failure.
template <typename Ask>
OrtStatus* read_text(Ask ask, std::string* out) {
  size_t size = 0;
  if (OrtStatus* status = ask(nullptr, &size)) return status;
  out->assign(size, '\0');
  if (OrtStatus* status = ask(&(*out)[0], &size)) return status;
  out->resize(size ? size - 1 : 0);  // the size counts the final NUL
  return nullptr;
}

}  // namespace

Node::Node(const OrtApi* api, const ort_abi::OrtKernelInfo* info, const char* op)
    : api_(api), info_(info), label_(std::string("moe_export.") + op) {
  std::string name;
  const auto ask = [&](char* out, size_t* size) {
    return api_->KernelInfo_GetNodeName(info_, out, size);
  };
  check(api_, read_text(ask, &name));
  label_ += name.empty() ? " node without a name" : " node '" + name + "'";
}

bool Node::succeeded(OrtStatus* status) const {
  if (status == nullptr) return true;
  api_->ReleaseStatus(status);
  return false;
}

bool Node::get(const char* name, int64_t* out) const {
  return succeeded(api_->KernelInfoGetAttribute_int64(info_, name, out));
}

bool Node::get(const char* name, float* out) const {
  return succeeded(api_->KernelInfoGetAttribute_float(info_, name, out));
}

bool Node::get(const char* name, std::string* out) const {
  const auto ask = [&](char* text, size_t* size) {
    return api_->KernelInfoGetAttribute_string(info_, name, text, size);
  };
  return succeeded(read_text(ask, out));
}

// An attribute that is absent and one of another type fail alike; only reading it as the others
// tells them apart.
void Node::refuse_other_types(const char* name, const char* expected) const {
  int64_t integer;
  float number;
  std::string text;
  const char* got = get(name, &integer) ? "an integer"
                    : get(name, &number) ? "a float"
                    : get(name, &text)   ? "a string"
                                         : nullptr;
  if (got) refuse_attribute(name, std::string("is ") + got + ", expected " + expected);
}

int64_t Node::integer(const char* name, int64_t otherwise) const {
  int64_t value;
  if (get(name, &value)) return value;
  refuse_other_types(name, "an integer");
  return otherwise;
}

float Node::number(const char* name, float otherwise) const {
  float value;
  if (get(name, &value)) return value;
  refuse_other_types(name, "a float");
  return otherwise;
}

std::string Node::text(const char* name, const char* otherwise) const {
  std::string value;
  if (get(name, &value)) return value;
  refuse_other_types(name, "a string");
  return otherwise;
}

bool Node::flag(const char* name, bool otherwise) const {
  const int64_t value = integer(name, otherwise);
  if (value != 0 && value != 1) {
    refuse_attribute(name, "is " + std::to_string(value) + ", expected 0 or 1");
  }
  return value == 1;
}

size_t Node::size(const char* name, int64_t otherwise, int64_t least) const {
  // Sizes are multiplied; below this no product of two of them overflows.
  constexpr int64_t most = INT32_MAX;
  const int64_t value = integer(name, otherwise);
  if (value < least || value > most) {
    refuse_attribute(name, (value == otherwise ? "is missing or " : "is ") + std::to_string(value) +
                               ", expected " + std::to_string(least) + " to " +
                               std::to_string(most));
  }
  return static_cast<size_t>(value);
}

bool Node::has_input(size_t index) const {
  size_t count = 0;
  check(api_, api_->KernelInfo_GetInputCount(info_, &count));
  if (index >= count) return false;
  std::string name;
  const auto ask = [&](char* out, size_t* size) {
    return api_->KernelInfo_GetInputName(info_, index, out, size);
  };
  check(api_, read_text(ask, &name));
  return !name.empty();
}

Tensor Node::constant(size_t index) const {
  if (!has_input(index)) return {};
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api_, api_->KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  return read_tensor(api_, is_constant ? value : nullptr);
}

void Node::refuse_attribute(const char* name, const std::string& what) const {
  throw Fault(label_ + ": attribute '" + name + "' " + what);
}

}  // namespace moe_ort
