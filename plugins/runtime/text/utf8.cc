#include "text/utf8.h"

#include <cstdlib>
#include <memory>

#include <utf8proc.h>

#include "core/error.h"

namespace moe::runtime {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// How many bytes at the front of `bytes` are one letter, or 0 and in `*wrong` how many are none.
size_t letter_at(std::string_view bytes, size_t* wrong) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = byte(0);
  *wrong = 1;
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  // Neither surrogates, nor longer than needed, nor above U+10FFFF.
  unsigned char least = 0x80, most = 0xBF;
  if (first == 0xE0) least = 0xA0;
  if (first == 0xED) most = 0x9F;
  if (first == 0xF0) least = 0x90;
  if (first == 0xF4) most = 0x8F;
  for (size_t i = 1; i < length; ++i) {
    if (i >= bytes.size() || byte(i) < least || byte(i) > most) return 0;
    *wrong = i + 1;
    least = 0x80, most = 0xBF;
  }
  return length;
}

utf8proc_category_t category(char32_t letter) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(letter));
}

}  // namespace

char32_t next_letter(std::string_view text, size_t* at) {
  const auto byte = [&](size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[*at + i]));
  };
  const size_t length = length_of(text[*at]);
  char32_t letter = byte(0);
  if (length == 2) letter = (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
  if (length == 3) letter = (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  if (length == 4) {
    letter = (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 |
             (byte(3) & 0x3F);
  }
  *at += length;
  return letter;
}

void append(char32_t letter, std::string* text) {
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(letter), bytes);
  text->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(count));
}

bool is_utf8(std::string_view bytes) {
  size_t wrong;
  while (!bytes.empty()) {
    const size_t length = letter_at(bytes, &wrong);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

std::string mended(std::string_view bytes) {
  std::string made;
  made.reserve(bytes.size());
  while (!bytes.empty()) {
    size_t wrong;
    const size_t length = letter_at(bytes, &wrong);
    made += length ? bytes.substr(0, length) : kReplacement;
    bytes.remove_prefix(length ? length : wrong);
  }
  return made;
}

std::string normalized(std::string_view text, Form form) {
  int options = UTF8PROC_STABLE;
  options |= form == Form::nfc || form == Form::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == Form::nfkc || form == Form::nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* made = nullptr;
  const utf8proc_ssize_t count =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &made,
                   static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(made, &std::free);
  if (count < 0) {
    throw Error(count == UTF8PROC_ERROR_NOMEM ? Kind::memory : Kind::internal,
                std::string("a text cannot be normalized: ") + utf8proc_errmsg(count));
  }
  return std::string(reinterpret_cast<const char*>(made), static_cast<size_t>(count));
}

bool is_space(char32_t letter) {
  return (letter >= 0x09 && letter <= 0x0D) || letter == 0x20 || letter == 0x85 ||
         letter == 0xA0 || letter == 0x1680 || (letter >= 0x2000 && letter <= 0x200A) ||
         letter == 0x2028 || letter == 0x2029 || letter == 0x202F || letter == 0x205F ||
         letter == 0x3000;
}

bool is_numeric(char32_t letter) {
  const auto found = category(letter);
  return found >= UTF8PROC_CATEGORY_ND && found <= UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t letter) {
  if (letter < 0x80) {
    return (letter > 0x20 && letter < 0x30) || (letter > 0x39 && letter < 0x41) ||
           (letter > 0x5A && letter < 0x61) || (letter > 0x7A && letter < 0x7F);
  }
  const auto found = category(letter);
  return found >= UTF8PROC_CATEGORY_PC && found <= UTF8PROC_CATEGORY_PO;
}

bool is_mark(char32_t letter) {
  const auto found = category(letter);
  return found >= UTF8PROC_CATEGORY_MN && found <= UTF8PROC_CATEGORY_ME;
}

bool is_nonspacing_mark(char32_t letter) { return category(letter) == UTF8PROC_CATEGORY_MN; }

bool is_control(char32_t letter) {
  switch (category(letter)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO: return true;
    default: return false;
  }
}

bool is_word(char32_t letter) {
  const auto found = category(letter);
  if (found >= UTF8PROC_CATEGORY_LU && found <= UTF8PROC_CATEGORY_NL) return true;
  if (found == UTF8PROC_CATEGORY_PC || letter == 0x200C || letter == 0x200D) return true;
  // Letters in circles and squares are symbols by category, and alphabetic.
  return (letter >= 0x24B6 && letter <= 0x24E9) || (letter >= 0x1F130 && letter <= 0x1F149) ||
         (letter >= 0x1F150 && letter <= 0x1F169) || (letter >= 0x1F170 && letter <= 0x1F189);
}

std::string lowered(std::string_view text) {
  std::string made;
  made.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t letter = next_letter(text, &at);
    if (letter == 0x130) {
      // The one letter whose lower case is two, whatever the language: i with a dot above.
      made += "i\xCC\x87";
      continue;
    }
    append(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(letter))), &made);
  }
  return made;
}

}  // namespace moe::runtime
