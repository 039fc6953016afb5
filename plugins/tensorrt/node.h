// The attributes of a node, its name, and which inputs it has.
#ifndef MOE_EXPORT_PLUGINS_TENSORRT_NODE_H_
#define MOE_EXPORT_PLUGINS_TENSORRT_NODE_H_

#include <string>
#include <vector>

#include <NvInferRuntime.h>

#include "fault.h"

namespace moe_trt {

// An attribute of an op and its default, as in moe_export/moe/schema.py.
struct Attribute {
  enum class Type { integer, number, text };

  static Attribute of(const char* name, int32_t otherwise) {
    return {name, Type::integer, otherwise, 0, ""};
  }
  static Attribute of(const char* name, float otherwise) {
    return {name, Type::number, 0, otherwise, ""};
  }
  static Attribute of(const char* name, const char* otherwise) {
    return {name, Type::text, 0, 0, otherwise};
  }

  const char* name;
  Type type;
  int32_t integer;
  float number;
  std::string text;
};

// One value that a text may have, and what it means.
template <typename Meaning>
struct Choice {
  const char* text;
  Meaning meaning;
};

// Names of a node's inputs, joined by commas: TensorRT has no empty inputs, so a node has only those
// that are present and says which they are.
constexpr const char* kInputNames = "input_names";

class Node {
 public:
  // Takes the defaults where `given` has nothing.  A Fault where it has what is not in `attributes`,
  // or something of another type.
  Node(const char* op, const char* name, std::vector<Attribute> attributes,
       const nvinfer1::PluginFieldCollection* given);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  // "moe_export.Experts node 'layers.0.experts'"
  const std::string& label() const { return label_; }

  const std::string& text(const char* name) const { return find(name).text; }
  float number(const char* name) const { return find(name).number; }
  bool flag(const char* name) const;                 // 0 or 1
  size_t size(const char* name, int32_t least) const;  // at least `least`

  // What the text stands for.
  template <typename Meaning, size_t count>
  Meaning choice(const char* name, const Choice<Meaning> (&choices)[count]) const {
    const std::string& given = text(name);
    std::string known;
    for (const Choice<Meaning>& choice : choices) {
      if (given == choice.text) return choice.meaning;
      known += (known.empty() ? "" : ", ") + std::string(choice.text);
    }
    refuse_attribute(name, "is '" + given + "', expected one of " + known);
  }

  [[noreturn]] void refuse_attribute(const char* name, const std::string& what) const;

  // All of it, defaults included, so that a plan means the same under a library with other defaults.
  const nvinfer1::PluginFieldCollection* fields() const { return &collection_; }
  // The op and all attributes on one line.
  const std::string& summary() const { return summary_; }

 private:
  Attribute* attribute(const char* name);
  const Attribute& find(const char* name) const;
  void take(const nvinfer1::PluginField& field);

  std::string name_, label_, summary_;
  std::vector<Attribute> attributes_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

// Of an attribute with its default: what a creator shows of it, and what a plan keeps.
nvinfer1::PluginField field_of(const Attribute& attribute);

}  // namespace moe_trt

#endif  // MOE_EXPORT_PLUGINS_TENSORRT_NODE_H_
