// A text in pieces, while it is on its way to tokens.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PIECES_OF_TEXT_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PIECES_OF_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "text/part.h"
#include "text/regex.h"

namespace moe::runtime {

// A piece is text, or already a token.
struct Piece {
  static constexpr int64_t kText = -1;
  std::string text;
  bool at_start;  // whether the whole text begins with it
  int64_t token = kText;
};
using PiecesOfText = std::vector<Piece>;

// What becomes of the places where a pattern is found: pieces of their own, nothing, one piece for
// several in a row, the end of the piece in front, the beginning of the one behind.
enum class Behavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };

// Raises Error(unsafe) for a word that is none of these.
Behavior read_behavior(const Field& value);

// Appends the pieces of `piece` that `ranges` make; those without text are left out.
void split(const Piece& piece, const std::vector<Range>& ranges, Behavior behavior,
           PiecesOfText* made);

// Ranges of the letters for which `is_found` holds, each a find of its own.
template <typename IsFound>
std::vector<Range> ranges_of(const std::string& text, IsFound is_found);

}  // namespace moe::runtime

#include "text/utf8.h"

template <typename IsFound>
std::vector<moe::runtime::Range> moe::runtime::ranges_of(const std::string& text,
                                                         IsFound is_found) {
  std::vector<Range> made;
  size_t behind = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!is_found(next_letter(text, &at))) continue;
    if (behind != begin) made.push_back({behind, begin, false});
    made.push_back({begin, at, true});
    behind = at;
  }
  if (behind != text.size()) made.push_back({behind, text.size(), false});
  return made;
}

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PIECES_OF_TEXT_H_
