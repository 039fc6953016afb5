#include "text/part.h"

#include "core/words.h"
#include "text/utf8.h"

namespace moe::runtime {

Part::Part(const Field& value, const char* kind, const std::string& where)
    : members_(value), kind_(kind), where_(where) {
  // Files of years ago have no types; what they are is a guess.
  const auto type = members_.find("type");
  if (!type) throw Error(Kind::unsupported, kind_ + " without a type", where_);
  type_ = type->text();
}

bool Part::boolean(const char* name, bool otherwise) {
  const auto found = members_.given(name);
  return found ? found->boolean() : otherwise;
}

std::string Part::text(const char* name, const std::string& otherwise) {
  const auto found = members_.given(name);
  return found ? found->text() : otherwise;
}

char32_t Part::letter(const char* name) {
  const Field found = members_.at(name);
  const std::string text = found.text();
  size_t at = 0;
  const char32_t letter = text.empty() ? 0 : next_letter(text, &at);
  if (text.empty() || at != text.size()) found.refuse("expected one letter");
  return letter;
}

void Part::done() const {
  if (const auto name = members_.unknown()) unsupported("has a setting " + in_quotes(*name));
}

void Part::unsupported(const std::string& what) const {
  throw Error(Kind::unsupported, kind_ + " of type " + in_quotes(type_) + " " + what, where_,
              "the C++ runtime does not know what that does to text");
}

void Part::unknown() const { unsupported("is not known to this release"); }

}  // namespace moe::runtime
