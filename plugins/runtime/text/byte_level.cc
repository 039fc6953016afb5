#include "text/byte_level.h"

#include <array>

#include "text/utf8.h"

namespace moe::runtime {

namespace {

// Bytes that are seen in Latin-1 stand for themselves; the others take the letters from U+0100 on.
struct Table {
  std::array<char32_t, 256> letter;
  std::array<int, 0x200> byte;
  Table() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int i = 0; i < 256; ++i) {
      const bool seen = (i >= '!' && i <= '~') || (i >= 0xA1 && i != 0xAD);
      letter[size_t(i)] = seen ? static_cast<char32_t>(i) : next++;
      byte[letter[size_t(i)]] = i;
    }
  }
};

const Table& table() {
  static const Table made;
  return made;
}

}  // namespace

std::string letters_of_bytes(std::string_view bytes) {
  std::string made;
  made.reserve(bytes.size() * 2);
  for (const char byte : bytes) append(table().letter[static_cast<unsigned char>(byte)], &made);
  return made;
}

void append_bytes_of_letters(std::string_view text, std::string* bytes) {
  const size_t before = bytes->size();
  for (size_t at = 0; at < text.size();) {
    const char32_t letter = next_letter(text, &at);
    const int byte = letter < table().byte.size() ? table().byte[letter] : -1;
    if (byte < 0) {
      bytes->resize(before);
      *bytes += text;
      return;
    }
    *bytes += static_cast<char>(byte);
  }
}

}  // namespace moe::runtime
