// How a text falls into words, which no token goes across.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PRE_TOKENIZER_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PRE_TOKENIZER_H_

#include <memory>
#include <string>

#include "text/pieces_of_text.h"

namespace moe::runtime {

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Appends the pieces that a piece of text falls into.
  virtual void split(Piece piece, PiecesOfText* made) const = 0;
  // Whether it asks where the whole text begins.
  virtual bool needs_start() const { return false; }

  // All of `pieces` that are text.
  void run(PiecesOfText* pieces) const;
};

// Raises Error(unsafe) for what is none, Error(unsupported) for one that is not known.
std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Field& value, const std::string& where);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PRE_TOKENIZER_H_
