// Text as letters, and what Unicode says of them.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_UTF8_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_UTF8_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace moe::runtime {

// Bytes of the letter that begins with `first`, in text that is UTF-8.
inline size_t length_of(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// The letter at `*at`, which then stands behind it, in text that is UTF-8.
char32_t next_letter(std::string_view text, size_t* at);

void append(char32_t letter, std::string* text);

bool is_utf8(std::string_view bytes);

// `bytes` with U+FFFD for each longest beginning of a letter that is none, as Unicode recommends
// (chapter 3, "maximal subpart").
std::string mended(std::string_view bytes);

enum class Form { nfc, nfd, nfkc, nfkd };
std::string normalized(std::string_view text, Form form);

// White_Space, which \s stands for.
bool is_space(char32_t letter);
// Of general category N.
bool is_numeric(char32_t letter);
// Of general category P, or what ASCII calls punctuation.
bool is_punctuation(char32_t letter);
// Of general category M, or of Mn alone.
bool is_mark(char32_t letter);
bool is_nonspacing_mark(char32_t letter);
// Of general category C, but for what is not assigned.
bool is_control(char32_t letter);
// What \w stands for in Unicode's recommendation (UTS #18): letters, marks, digits, connectors.
bool is_word(char32_t letter);

// Lower case without regard to what stands around it.
std::string lowered(std::string_view text);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_UTF8_H_
