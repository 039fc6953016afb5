// A node of the graph while its kernel is made: attributes, and the inputs that are constant.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_NODE_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_NODE_H_

#include <string>
#include <type_traits>

#include "moe_kernels.h"
#include "tensor.h"

namespace moe_ort {

// One value that an attribute may have, and what it means.
template <typename Meaning>
struct Choice {
  const char* text;
  Meaning meaning;
};

class Node {
 public:
  Node(const OrtApi* api, const ort_abi::OrtKernelInfo* info, const char* op);

  const OrtApi* api() const { return api_; }
  // "moe_export.Experts node 'layers.0.experts'"
  const std::string& label() const { return label_; }

  // The attribute, or `otherwise` where the node has none.  One of another type is a Fault.
  int64_t integer(const char* name, int64_t otherwise) const;
  float number(const char* name, float otherwise) const;
  std::string text(const char* name, const char* otherwise) const;
  bool flag(const char* name, bool otherwise) const;  // 0 or 1
  // At least `least`; an attribute without a default has one below it.
  size_t size(const char* name, int64_t otherwise, int64_t least) const;

  // What the text stands for.  The first choice is the default.
  template <typename Meaning, size_t count>
  Meaning choice(const char* name, const Choice<Meaning> (&choices)[count]) const {
    const std::string given = text(name, choices[0].text);
    std::string known;
    for (const Choice<Meaning>& choice : choices) {
      if (given == choice.text) return choice.meaning;
      known += (known.empty() ? "" : ", ") + std::string(choice.text);
    }
    refuse_attribute(name, "is '" + given + "', expected one of " + known);
  }

  // Whether the node has the input; one that may change between runs is present all the same.
  bool has_input(size_t index) const;
  // The input's tensor if it is a constant of the graph, else one that is not present.
  Tensor constant(size_t index) const;

  [[noreturn]] void refuse_attribute(const char* name, const std::string& what) const;

 private:
  bool get(const char* name, int64_t* out) const;
  bool get(const char* name, float* out) const;
  bool get(const char* name, std::string* out) const;
  bool succeeded(OrtStatus* status) const;
  void refuse_other_types(const char* name, const char* expected) const;

  const OrtApi* api_;
  const ort_abi::OrtKernelInfo* info_;
  std::string label_;
};

// The kernels of the level in use; a Fault where MOE_EXPORT_CPU names one that is not to be had.
const moe::Isa* isa_of(const Node& node);

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_NODE_H_
