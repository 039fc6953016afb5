#include "bundle/wire.h"

#include <map>

#include "core/words.h"

namespace moe::runtime {

namespace {

enum class Message { model, training, function, graph, node, attribute, sparse, tensor, other };

enum Wire : uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
constexpr uint64_t kTensorName = 8, kTensorExternalData = 13, kTensorDataLocation = 14;
constexpr uint32_t kExternal = 1;  // TensorProto.DataLocation.EXTERNAL
// Protocol Buffers' own readers stop at 100 levels.
constexpr int kMaxDepth = 100;

// The message inside a field; `other` leads to no tensor.
Message child(Message kind, uint64_t field) {
  switch (kind) {
    case Message::model:
      return field == 7    ? Message::graph
             : field == 20 ? Message::training
             : field == 25 ? Message::function
                           : Message::other;
    case Message::training: return field == 1 || field == 2 ? Message::graph : Message::other;
    case Message::function:
      return field == 7 ? Message::node : field == 11 ? Message::attribute : Message::other;
    case Message::graph:
      return field == 1    ? Message::node
             : field == 5  ? Message::tensor
             : field == 15 ? Message::sparse
                           : Message::other;
    case Message::node: return field == 5 ? Message::attribute : Message::other;
    case Message::attribute:
      return field == 5 || field == 10    ? Message::tensor
             : field == 6 || field == 11  ? Message::graph
             : field == 22 || field == 23 ? Message::sparse
                                          : Message::other;
    case Message::sparse: return field == 1 || field == 2 ? Message::tensor : Message::other;
    default: return Message::other;
  }
}

struct FieldOf {
  uint64_t number, wire;
  uint64_t value;         // of a varint, its lower 64 bits
  std::string_view bytes;  // of all others
};

// The fields of a message, one after the other.
class Fields {
 public:
  explicit Fields(std::string_view message) : left_(message) {}

  bool next(FieldOf* field) {
    if (left_.empty()) return false;
    bool wide = false;
    const uint64_t tag = varint(&wide);
    *field = {tag >> 3, tag & 7, 0, {}};
    if (field->number == 0) throw WireFault("a field has the number 0");
    if (field->wire == kVarint) {
      field->value = varint(&wide);
      return true;
    }
    uint64_t size = 0;
    if (field->wire == kBytes) {
      size = varint(&wide);
    } else if (field->wire == kFixed64 || field->wire == kFixed32) {
      size = field->wire == kFixed64 ? 8 : 4;
    } else {
      throw WireFault("field " + std::to_string(field->number) + " has the wire type " +
                      std::to_string(field->wire));
    }
    if (wide || size > left_.size()) {
      throw WireFault("field " + std::to_string(field->number) + " reaches past the end");
    }
    field->bytes = left_.substr(0, size);
    left_.remove_prefix(size);
    return true;
  }

 private:
  // Seven bits a byte, least first; `wide` where they are more than 64.
  uint64_t varint(bool* wide) {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (left_.empty()) throw WireFault("a number is cut off");
      const auto byte = static_cast<uint8_t>(left_.front());
      left_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (shift == 63 && (byte & 126) != 0) *wide = true;
      if (byte < 128) return value;
    }
    throw WireFault("a number is longer than ten bytes");
  }
  std::string_view left_;
};

std::string text_of(std::string_view bytes) {
  if (!all_utf8(bytes)) throw WireFault("a text is not UTF-8");
  return std::string(bytes);
}

uint64_t number_of(const std::string& text) {
  const bool digits = !text.empty() && text.size() <= 18 &&
                      text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits) throw WireFault(in_quotes(text, 40) + " is not an offset or a length");
  return std::stoull(text);
}

// Where a TensorProto keeps its data, if that is outside itself.
void reference_of(std::string_view tensor, std::vector<ExternalData>* made) {
  std::string name;
  bool external = false;
  std::map<std::string, std::string> entries;
  Fields fields(tensor);
  for (FieldOf field; fields.next(&field);) {
    if (field.number == kTensorName && field.wire == kBytes) {
      name = text_of(field.bytes);
    } else if (field.number == kTensorDataLocation && field.wire == kVarint) {
      external = static_cast<uint32_t>(field.value) == kExternal;
    } else if (field.number == kTensorExternalData && field.wire == kBytes) {
      // A StringStringEntryProto; the last of each field counts.
      std::string texts[2];
      Fields entry(field.bytes);
      for (FieldOf part; entry.next(&part);) {
        if ((part.number == 1 || part.number == 2) && part.wire == kBytes) {
          texts[part.number - 1] = text_of(part.bytes);
        }
      }
      if (!entries.emplace(texts[0], texts[1]).second) {
        throw WireFault("tensor " + in_quotes(name) + " states its " + in_quotes(texts[0]) +
                        " twice");
      }
    }
  }
  if (!external && entries.empty()) return;
  const bool whole = entries.size() == 3 && entries.count("location") && entries.count("offset") &&
                     entries.count("length");
  if (!whole) throw WireFault("tensor " + in_quotes(name) + " has external data half described");
  made->push_back({name, entries["location"], number_of(entries["offset"]),
                   number_of(entries["length"])});
}

void walk(std::string_view message, Message kind, int depth, std::vector<ExternalData>* made) {
  if (kind == Message::tensor) return reference_of(message, made);
  if (depth > kMaxDepth) {
    throw WireFault("messages are nested deeper than " + std::to_string(kMaxDepth) + " levels");
  }
  Fields fields(message);
  for (FieldOf field; fields.next(&field);) {
    const Message inner = child(kind, field.number);
    if (inner != Message::other && field.wire == kBytes) {
      walk(field.bytes, inner, depth + 1, made);
    }
  }
}

}  // namespace

std::vector<ExternalData> external_data(std::string_view model) {
  std::vector<ExternalData> made;
  walk(model, Message::model, 0, &made);
  return made;
}

}  // namespace moe::runtime
