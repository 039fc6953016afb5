// Patterns as tokenizers have them, in the syntax of PCRE2.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_ONIGURUMA_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_ONIGURUMA_H_

#include <string>
#include <string_view>

namespace moe::runtime {

// What an Oniguruma pattern (Ruby's syntax, UTF-8) means, for PCRE2 with UTF and MULTILINE.
//
// Raises Error(unsupported) naming `where` for what the two might understand differently:
// references, conditionals, multi-letter folds of case, stacked quantifiers, and whatever is not
// known here.  Error(unsafe) for a pattern that ends too early.
std::string pcre2_of(std::string_view pattern, const std::string& where);

// `text` as a pattern of itself.
std::string pcre2_of_literal(std::string_view text);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_ONIGURUMA_H_
