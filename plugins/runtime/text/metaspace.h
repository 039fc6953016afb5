// Spaces as a letter that can be seen, as SentencePiece has them: a pre-tokenizer, and a decoder.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_METASPACE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_METASPACE_H_

#include <string>

#include "text/part.h"

namespace moe::runtime {

struct Metaspace {
  enum class Prepend { first, never, always };
  char32_t replacement = 0x2581;
  Prepend prepend = Prepend::always;  // whether a text, or each piece of it, gets one in front
  bool split = true;                  // whether each begins a piece

  static Metaspace read(Part* part);

  // `text` with its spaces replaced, and one in front where that is wanted.
  std::string replaced(const std::string& text, bool at_start) const;
  // A token as text; the first one of an answer loses what was put in front.
  std::string restored(const std::string& token, bool first) const;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_METASPACE_H_
