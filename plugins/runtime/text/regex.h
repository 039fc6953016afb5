// Where a pattern is found in a text.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_REGEX_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace moe::runtime {

// Bytes of a text, and whether a pattern was found there.
struct Range {
  size_t begin, end;
  bool found;
};

// Any number of threads may use one.
class Regex {
 public:
  // A pattern in Oniguruma's syntax, or one of `text` itself.  Raises what `pcre2_of` does, and
  // Error(unsupported) for a pattern that PCRE2 does not take.
  static Regex of_pattern(std::string_view pattern, const std::string& where);
  static Regex of_text(std::string_view text, const std::string& where);

  // All of `text` in order, what was found and what lies between.  An empty find is a range of no
  // bytes, and never follows another find at once.  Raises Error(usage) where finding takes longer
  // than any pattern should.
  std::vector<Range> ranges(std::string_view text) const;

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}
  static Regex compiled(const std::string& pattern, std::string_view given,
                        const std::string& where);
  std::shared_ptr<const Code> code_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_REGEX_H_
