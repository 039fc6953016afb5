#include "text/replacement.h"

namespace moe::runtime {

Regex read_pattern(const Field& value, const std::string& where) {
  Members members(value);
  const auto text = members.find("String"), pattern = members.find("Regex");
  members.done();
  if (text.has_value() == pattern.has_value()) members.refuse("expected String or Regex");
  return text ? Regex::of_text(text->text(), where) : Regex::of_pattern(pattern->text(), where);
}

Replacement Replacement::read(Part* part) {
  Regex pattern = read_pattern(part->at("pattern"), part->where());
  std::string content = part->at("content").text();
  part->done();
  return Replacement(std::move(pattern), std::move(content));
}

std::string Replacement::of(const std::string& text) const {
  std::string made;
  for (const Range& range : pattern_.ranges(text)) {
    if (range.found) {
      made += content_;
    } else {
      made.append(text, range.begin, range.end - range.begin);
    }
  }
  return made;
}

}  // namespace moe::runtime
