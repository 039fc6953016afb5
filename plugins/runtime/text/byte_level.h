// Bytes as letters that can be seen, as GPT-2's vocabulary has them.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_BYTE_LEVEL_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_BYTE_LEVEL_H_

#include <string>
#include <string_view>

namespace moe::runtime {

// A letter for each byte.
std::string letters_of_bytes(std::string_view bytes);

// Appends the bytes that the letters of `text` stand for; the text itself where one stands for none.
void append_bytes_of_letters(std::string_view text, std::string* bytes);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_BYTE_LEVEL_H_
