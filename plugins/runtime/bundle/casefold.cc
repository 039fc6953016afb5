#include "bundle/casefold.h"

#include <cstdint>

#include "core/words.h"

namespace moe::runtime {

namespace {

struct Run {
  uint32_t first, last;
  uint32_t step;
  int32_t shift;
};
struct Several {
  uint32_t code;
  const char* text;
};

#include "bundle/casefold.inc"

void fold(uint32_t code, std::string* made) {
  if (code < 128) {
    const bool capital = code >= 'A' && code <= 'Z';
    return made->push_back(static_cast<char>(capital ? code + 32 : code));
  }
  for (const Several& each : kSeveral) {
    if (each.code == code) return void(*made += each.text);
  }
  for (const Run& run : kRuns) {
    if (code >= run.first && code <= run.last && (code - run.first) % run.step == 0) {
      return append_utf8(static_cast<uint32_t>(static_cast<int32_t>(code) + run.shift), made);
    }
  }
  append_utf8(code, made);
}

}  // namespace

std::string casefolded(std::string_view text) {
  std::string made;
  while (!text.empty()) {
    uint32_t code = 0;
    const size_t length = first_character(text, &code);
    if (length == 0) break;
    fold(code, &made);
    text.remove_prefix(length);
  }
  return made;
}

}  // namespace moe::runtime
