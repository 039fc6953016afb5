#include "core/words.h"

#include <cstdint>
#include <cstdio>

namespace moe::runtime {

namespace {

// The length of the character of UTF-8 that begins `text` and its number; 0 where none does.
size_t character(std::string_view text, uint32_t* code) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return *code = first, 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  *code = first & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    *code = *code << 6 | (byte(i) & 0x3F);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = *code >= 0xD800 && *code < 0xE000;
  return *code < kLeast[length] || *code > 0x10FFFF || surrogate ? 0 : length;
}

// What moves a cursor, or turns the direction of the text around it.
bool disturbs(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code < 0xA0) || (code >= 0x200B && code <= 0x200F) ||
         (code >= 0x2028 && code <= 0x202E) || (code >= 0x2060 && code <= 0x206F) ||
         code == 0xFEFF;
}

}  // namespace

std::string printable(std::string_view text, size_t most) {
  std::string shown;
  while (!text.empty()) {
    if (shown.size() >= most) return shown + "...";
    uint32_t code = 0;
    const size_t length = character(text, &code);
    const size_t taken = length != 0 ? length : 1;
    if (length == 0 || disturbs(code)) {
      for (size_t i = 0; i < taken; ++i) {
        char escaped[8];
        std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<uint8_t>(text[i]));
        shown += escaped;
      }
    } else {
      shown.append(text.substr(0, taken));
    }
    text.remove_prefix(taken);
  }
  return shown;
}

std::string in_quotes(std::string_view text, size_t most) { return "'" + printable(text, most) + "'"; }

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text.empty() ? "none" : text;
}

std::string first_line(std::string_view text) {
  const size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string_view::npos) return "";
  text.remove_prefix(start);
  return printable(text.substr(0, text.find('\n')), 400);
}

}  // namespace moe::runtime
