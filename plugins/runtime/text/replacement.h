// One text for every place where a pattern is found: a normalizer, and a decoder.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_REPLACEMENT_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_REPLACEMENT_H_

#include <string>

#include "text/part.h"
#include "text/regex.h"

namespace moe::runtime {

// A pattern of tokenizer.json: {"String": "a text"} or {"Regex": "a pattern"}.
Regex read_pattern(const Field& value, const std::string& where);

class Replacement {
 public:
  // Of a part of type Replace.
  static Replacement read(Part* part);
  std::string of(const std::string& text) const;

 private:
  Replacement(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Regex pattern_;
  std::string content_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_REPLACEMENT_H_
