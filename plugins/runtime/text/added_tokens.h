// Tokens that a tokenizer was given beside its model's: found in the text before it falls into words.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_ADDED_TOKENS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_ADDED_TOKENS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/model.h"
#include "text/normalizer.h"
#include "text/pieces_of_text.h"

namespace moe::runtime {

// Texts to look for, of which the longest counts where several begin.
class Texts {
 public:
  // Raises Error(unsupported) for a text that is there already.
  void put(const std::string& text, int64_t token, const std::string& where);
  // Of the longest at `at`; its length becomes `*length`.
  std::optional<int64_t> longest(std::string_view text, size_t at, size_t* length) const;
  bool empty() const { return tokens_.empty(); }

 private:
  std::unordered_map<std::string, int64_t> tokens_;
  // Lengths of the texts that begin with a byte, the longest first.
  std::vector<size_t> lengths_[256];
};

class AddedTokens {
 public:
  // The ids are those that the library would give, which a file of its making holds too.  Raises
  // Error(unsafe) for what is no list of tokens, and what Texts::put raises.
  static AddedTokens read(const Field& value, const Model& model, const Normalizer* normalizer,
                          const std::string& where);

  // `text` with the tokens found in it, and what lies between them normalized.
  PiecesOfText found_in(std::string_view text, const Normalizer* normalizer) const;

  std::optional<int64_t> id_of(std::string_view token) const;
  // As it stands in text; null where no added token has the id.
  const std::string* token_of(int64_t id) const;
  bool is_special(const std::string& token) const { return special_.count(token) != 0; }

 private:
  struct Token {
    std::string content, shown;  // shown: normalized where the token is
    bool single_word, lstrip, rstrip, normalized;
  };
  // Appends the tokens that `texts` find in a piece, and the text between them.
  void find(const Texts& texts, const Piece& piece, PiecesOfText* made) const;

  std::unordered_map<std::string, int64_t> ids_;
  std::map<int64_t, Token> tokens_;
  std::unordered_set<std::string> special_;
  Texts as_written_, normalized_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_ADDED_TOKENS_H_
