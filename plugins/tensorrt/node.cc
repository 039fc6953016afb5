#include "node.h"

#include <cstring>

namespace moe_trt {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

namespace {

// In a plan beside the attributes: the runtime may know the node by another name.
constexpr const char* kNodeName = "node_name";

std::string text_of(const PluginField& field) {
  const char* characters = static_cast<const char*>(field.data);
  return std::string(characters, strnlen(characters, static_cast<size_t>(field.length)));
}

PluginField field_of_text(const char* name, const std::string& text) {
  return PluginField(name, text.c_str(), PluginFieldType::kCHAR,
                     static_cast<int32_t>(text.size() + 1));
}

// The name that TensorRT gives, or the plan's where it gives none.
std::string name_of(const char* name, const PluginFieldCollection* given) {
  if (name != nullptr && name[0] != 0) return name;
  for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) {
    const PluginField& field = given->fields[i];
    if (std::strcmp(field.name, kNodeName) == 0 && field.type == PluginFieldType::kCHAR &&
        field.data != nullptr && field.length > 0) {
      return text_of(field);
    }
  }
  return "";
}

std::string label_of(const char* op, const std::string& name) {
  return std::string("moe_export.") + op +
         (name.empty() ? " node without a name" : " node '" + name + "'");
}

std::string summary_of(const char* op, const std::vector<Attribute>& attributes) {
  std::string line = op;
  char number[40];
  for (const Attribute& attribute : attributes) {
    std::snprintf(number, sizeof number, "%.9g", static_cast<double>(attribute.number));
    line += std::string(" ") + attribute.name + "=";
    switch (attribute.type) {
      case Attribute::Type::integer: line += std::to_string(attribute.integer); break;
      case Attribute::Type::number: line += number; break;
      case Attribute::Type::text: line += attribute.text; break;
    }
  }
  return line;
}

}  // namespace

PluginField field_of(const Attribute& attribute) {
  switch (attribute.type) {
    case Attribute::Type::integer:
      return PluginField(attribute.name, &attribute.integer, PluginFieldType::kINT32, 1);
    case Attribute::Type::number:
      return PluginField(attribute.name, &attribute.number, PluginFieldType::kFLOAT32, 1);
    default: return field_of_text(attribute.name, attribute.text);
  }
}

Node::Node(const char* op, const char* name, std::vector<Attribute> attributes,
           const PluginFieldCollection* given)
    : name_(name_of(name, given)), label_(label_of(op, name_)), attributes_(std::move(attributes)) {
  for (int32_t i = 0; given != nullptr && i < given->nbFields; ++i) take(given->fields[i]);
  for (const Attribute& attribute : attributes_) fields_.push_back(field_of(attribute));
  fields_.push_back(field_of_text(kNodeName, name_));
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  summary_ = summary_of(op, attributes_);
}

void Node::take(const PluginField& field) {
  if (field.data == nullptr || field.length < 1) refuse_attribute(field.name, "has no value");
  if (std::strcmp(field.name, kNodeName) == 0) return;
  Attribute* attribute = this->attribute(field.name);
  if (attribute == nullptr) refuse_attribute(field.name, "is not known to this library");
  const PluginField wanted = field_of(*attribute);
  if (field.type != wanted.type || (field.type != PluginFieldType::kCHAR && field.length != 1)) {
    static constexpr const char* kTypes[] = {"an integer", "a float", "a string"};
    refuse_attribute(field.name,
                     std::string("is not ") + kTypes[static_cast<int>(attribute->type)]);
  }
  switch (attribute->type) {
    case Attribute::Type::integer:
      std::memcpy(&attribute->integer, field.data, sizeof attribute->integer);
      break;
    case Attribute::Type::number:
      std::memcpy(&attribute->number, field.data, sizeof attribute->number);
      break;
    case Attribute::Type::text: attribute->text = text_of(field); break;
  }
}

Attribute* Node::attribute(const char* name) {
  for (Attribute& attribute : attributes_) {
    if (std::strcmp(attribute.name, name) == 0) return &attribute;
  }
  return nullptr;
}

const Attribute& Node::find(const char* name) const {
  for (const Attribute& attribute : attributes_) {
    if (std::strcmp(attribute.name, name) == 0) return attribute;
  }
  throw Fault(label_ + ": has no attribute '" + name + "'");
}

bool Node::flag(const char* name) const {
  const int32_t value = find(name).integer;
  if (value != 0 && value != 1) {
    refuse_attribute(name, "is " + std::to_string(value) + ", expected 0 or 1");
  }
  return value == 1;
}

size_t Node::size(const char* name, int32_t least) const {
  const int32_t value = find(name).integer;
  if (value < least) {
    refuse_attribute(name, "is missing or " + std::to_string(value) + ", expected at least " +
                               std::to_string(least));
  }
  return static_cast<size_t>(value);
}

void Node::refuse_attribute(const char* name, const std::string& what) const {
  throw Fault(label_ + ": attribute '" + name + "' " + what);
}

}  // namespace moe_trt
