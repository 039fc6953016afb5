#include "text/regex.h"

#include <pcre2.h>

#include "core/error.h"
#include "core/words.h"
#include "text/oniguruma.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

// A pattern of real tokenizers takes some hundred steps for a letter; a hostile one takes as many as
// it is given.
constexpr uint32_t kMaxSteps = 20'000'000;
constexpr uint32_t kMaxKibibytes = 1 << 17;

// Longer patterns are no patterns of words.
constexpr size_t kMaxPattern = 1 << 16;

PCRE2_SPTR bytes_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string message_of(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Free> code;
  std::unique_ptr<pcre2_match_context, Free> limits;
};

Regex Regex::compiled(const std::string& pattern, std::string_view given,
                      const std::string& where) {
  if (pattern.size() > kMaxPattern) {
    throw Error(Kind::unsafe, "a pattern of " + std::to_string(given.size()) + " bytes", where);
  }
  int error = 0;
  PCRE2_SIZE place = 0;
  auto made = std::make_shared<Code>();
  made->code.reset(pcre2_compile(bytes_of(pattern), pattern.size(),
                                 PCRE2_UTF | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                 &place, nullptr));
  if (!made->code) {
    throw Error(Kind::unsupported,
                "the pattern " + in_quotes(given) + " of a tokenizer: " + message_of(error), where);
  }
  made->limits.reset(pcre2_match_context_create(nullptr));
  if (!made->limits) throw Error(Kind::memory, "no memory for a pattern", where);
  pcre2_set_match_limit(made->limits.get(), kMaxSteps);
  pcre2_set_heap_limit(made->limits.get(), kMaxKibibytes);
  return Regex(std::move(made));
}

Regex Regex::of_pattern(std::string_view pattern, const std::string& where) {
  return compiled(pcre2_of(pattern, where), pattern, where);
}

Regex Regex::of_text(std::string_view text, const std::string& where) {
  return compiled(pcre2_of_literal(text), text, where);
}

std::vector<Range> Regex::ranges(std::string_view text) const {
  if (text.empty()) return {{0, 0, false}};
  const std::unique_ptr<pcre2_match_data, Free> data(
      pcre2_match_data_create_from_pattern(code_->code.get(), nullptr));
  if (!data) throw Error(Kind::memory, "no memory to look for a pattern");
  std::vector<Range> made;
  size_t from = 0, behind = 0;
  bool is_behind_find = false;
  while (from <= text.size()) {
    const int found = pcre2_match(code_->code.get(), bytes_of(text), text.size(), from,
                                  PCRE2_NO_UTF_CHECK, data.get(), code_->limits.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      throw Error(Kind::usage, "a tokenizer's pattern takes too long: " + message_of(found), "",
                  "ask something shorter");
    }
    const PCRE2_SIZE* place = pcre2_get_ovector_pointer(data.get());
    const size_t begin = place[0], end = place[1];
    if (begin == end && is_behind_find && end == behind) {
      from += from < text.size() ? length_of(text[from]) : 1;
      continue;
    }
    if (behind != begin) made.push_back({behind, begin, false});
    made.push_back({begin, end, true});
    from = behind = end;
    is_behind_find = true;
  }
  if (behind != text.size()) made.push_back({behind, text.size(), false});
  return made;
}

}  // namespace moe::runtime
