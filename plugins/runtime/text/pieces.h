// The tokens of an answer as pieces of text.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PIECES_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PIECES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace moe::runtime {

// Each piece comes as soon as its letters are whole; all of them together are the answer's text.
class Pieces {
 public:
  explicit Pieces(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}

  // What the next token adds; empty where it holds a part of a letter.
  std::string push(int64_t token);

  // What was held back, such as half a letter at the end.  Nothing may be pushed behind it.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  std::vector<int64_t> heard_;
  std::string said_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_PIECES_H_
