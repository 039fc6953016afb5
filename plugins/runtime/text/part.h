// Reading the parts of tokenizer.json, each an object with a type.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PART_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PART_H_

#include <string>

#include "core/json.h"

namespace moe::runtime {

// A part of tokenizer.json.  `kind` is what it is, in the words of errors: "a normalizer".
class Part {
 public:
  Part(const Field& value, const char* kind, const std::string& where);

  const std::string& type() const { return type_; }
  const std::string& where() const { return where_; }

  // As in Members; the ones with another value take it where the member is missing or null.
  Field at(const char* name) { return members_.at(name); }
  std::optional<Field> given(const char* name) { return members_.given(name); }
  bool boolean(const char* name, bool otherwise);
  std::string text(const char* name, const std::string& otherwise);
  // A text of one letter.
  char32_t letter(const char* name);

  // Raises Error(unsupported) for a member that nobody asked for: it may mean something.
  void done() const;
  // Raises Error(unsupported) naming the part and what is the matter with it.
  [[noreturn]] void unsupported(const std::string& what) const;
  // Raises Error(unsupported) naming the type.
  [[noreturn]] void unknown() const;
  // Raises Error(unsafe) naming the field.
  [[noreturn]] void refuse(const std::string& what) const { members_.refuse(what); }

 private:
  Members members_;
  std::string kind_, where_, type_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PART_H_
