// Text for people: whatever a hostile file holds, an error is a line that a terminal can show.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_CORE_WORDS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_CORE_WORDS_H_

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
// Up to the first line's end, at most 400 bytes.
std::string first_line(std::string_view text);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_CORE_WORDS_H_
