// Text: letters, patterns, and a tokenizer that many threads use.  tests/embed holds whole tokenizers
// beside the library that they come from.
#include <atomic>
#include <thread>

#include "../check.h"
#include "core/error.h"
#include "refused.h"
#include "text/oniguruma.h"
#include "text/pieces.h"
#include "text/regex.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace moe::tests {

namespace {

using runtime::Range;
using runtime::Regex;
using runtime::Tokenizer;

// "0-3 found, 3-4": where a pattern is.
std::string places(const std::string& pattern, const std::string& text) {
  std::string made;
  for (const Range& range : Regex::of_pattern(pattern, "file").ranges(text)) {
    made += (made.empty() ? "" : ", ") + std::to_string(range.begin) + "-" +
            std::to_string(range.end) + (range.found ? " found" : "");
  }
  return made;
}

// Three letters, the pair of two of them, and a token that was added.
constexpr std::string_view kSmall = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false,
                    "rstrip": true, "normalized": false, "special": true}],
  "normalizer": {"type": "Lowercase"},
  "pre_tokenizer": {"type": "WhitespaceSplit"},
  "post_processor": {"type": "TemplateProcessing", "pair": [],
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
  "decoder": {"type": "Fuse"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u00e9": 3}, "merges": [["a", "b"]]}
})";

std::string words(const std::vector<int64_t>& ids) {
  std::string made;
  for (const int64_t id : ids) made += (made.empty() ? "" : " ") + std::to_string(id);
  return made;
}

}  // namespace

TEST(a_letter_of_each_length_is_read_and_written) {
  const std::string text = "a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x91\x8D";
  const char32_t expected[] = {'a', 0xE9, 0x4F60, 0x1F44D};
  std::string written;
  size_t at = 0;
  for (const char32_t letter : expected) {
    CHECK(runtime::next_letter(text, &at) == letter, "at byte %zu", at);
    runtime::append(letter, &written);
  }
  CHECK(at == text.size() && written == text, "%s", written.c_str());
}

TEST(bytes_that_are_no_letter_are_replaced_as_unicode_recommends) {
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFF" "b", "a\xEF\xBF\xBD" "b"},
      {"\xC3", "\xEF\xBF\xBD"},
      // Two bytes of three, which begin a letter, are one; a surrogate's three are three.
      {"\xE4\xBD" "x", "\xEF\xBF\xBDx"},
      {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
      {"\xF0\x9F\x91", "\xEF\xBF\xBD"},
      {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},
  };
  for (const auto& [bytes, expected] : cases) {
    CHECK(!runtime::is_utf8(bytes), "%s", expected.c_str());
    CHECK(runtime::mended(bytes) == expected, "%s", runtime::mended(bytes).c_str());
  }
}

TEST(a_pattern_is_found_where_it_is_and_nowhere_else) {
  CHECK(places("b+", "abbc") == "0-1, 1-3 found, 3-4", "%s", places("b+", "abbc").c_str());
  CHECK(places("x", "abc") == "0-3", "%s", places("x", "abc").c_str());
  CHECK(places("x*", "axb") == "0-0 found, 0-1, 1-2 found, 2-3, 3-3 found", "%s",
        places("x*", "axb").c_str());
  // U+180E is no space, though PCRE2 counts it among them.
  CHECK(places("\\s", "\xE1\xA0\x8E") == "0-3", "%s", places("\\s", "\xE1\xA0\x8E").c_str());
  CHECK(places("[a-z&&[^aeiou]]+", "abcde") == "0-1, 1-4 found, 4-5", "%s",
        places("[a-z&&[^aeiou]]+", "abcde").c_str());
}

TEST(a_pattern_that_is_cut_short_is_refused) {
  for (const char* pattern : {"(", "[", "[a", "a\\", "\\p{L", "(?", "[a&&", "\\x{", "(?<", "a{1}{"}) {
    const std::string words = refused([&] { Regex::of_pattern(pattern, "file"); });
    const bool literal = std::string(pattern) == "a{1}{";
    CHECK(words.empty() == literal, "%s: %s", pattern, words.c_str());
  }
}

TEST(a_tokenizer_reads_merges_added_tokens_and_templates) {
  const Tokenizer made = Tokenizer::from_json(kSmall, "file");
  // What has no token is left out, as the library leaves it; "<s>" takes the spaces behind it.
  CHECK(words(made.encode("AB a<s>  ba?", false)) == "2 0 4 1 0", "%s",
        words(made.encode("AB a<s>  ba?", false)).c_str());
  CHECK(words(made.encode("b")) == "4 1", "%s", words(made.encode("b")).c_str());
  CHECK(made.encode("", false).empty(), "of nothing");
  CHECK(made.decode({4, 2, 3, 99, -1}, true) == "ab\xC3\xA9", "%s", made.decode({4, 2}, true).c_str());
  CHECK(made.decode({4, 2}, false) == "<s>ab", "%s", made.decode({4, 2}, false).c_str());
  CHECK(made.token_to_id("<s>") == 4 && !made.token_to_id("c"), "ids by token");
}

TEST(threads_that_share_a_tokenizer_get_the_same_ids) {
  const Tokenizer made = Tokenizer::from_json(kSmall, "file");
  const std::vector<int64_t> expected = made.encode("ab \xC3\x89 ba<s> aab");
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, tokenizer = made] {
      for (int k = 0; k < 200; ++k) {
        if (tokenizer.encode("ab \xC3\x89 ba<s> aab") != expected) ++wrong;
        if (tokenizer.decode(expected, true) != made.decode(expected, true)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0, "%d times", wrong.load());
}

TEST(pieces_join_to_the_text_and_hold_half_letters_back) {
  const std::string bytes = R"({"version": "1.0", "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "\u00c3": 1, "\u00a9": 2}, "merges": []}})";
  runtime::Pieces pieces(Tokenizer::from_json(bytes, "file"));
  CHECK(pieces.push(0) == "a", "a letter");
  CHECK(pieces.push(1).empty(), "half a letter");
  CHECK(pieces.push(2) == "\xC3\xA9", "its other half");
  CHECK(pieces.push(1).empty(), "half a letter");
  CHECK(pieces.finish() == "\xEF\xBF\xBD", "which stays half");
}

}  // namespace moe::tests
