// Text for people: whatever a hostile file holds, an error is a line that a terminal can show.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_CORE_WORDS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_CORE_WORDS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe::runtime {

// `text` with control characters and bytes that are not UTF-8 written as \xNN, cut to `most` bytes.
std::string printable(std::string_view text, size_t most = 200);
// The same in quotes.
std::string in_quotes(std::string_view text, size_t most = 80);
// "a, b, c", or "none".
std::string listed(const std::vector<std::string>& names);
// The length of the character of UTF-8 that begins `text`, which is not empty, and its number; 0
// where none does.
size_t first_character(std::string_view text, uint32_t* code);
void append_utf8(uint32_t code, std::string* text);
// Whether every byte belongs to a character of UTF-8.
bool all_utf8(std::string_view text);
// Up to the first line's end, at most 400 bytes.
std::string first_line(std::string_view text);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_CORE_WORDS_H_
