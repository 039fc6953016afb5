// How a word becomes tokens.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_MODEL_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/part.h"

namespace moe::runtime {

// Tokens and their ids, both ways.
class Vocabulary {
 public:
  // Of an object {token: id}.  Raises Error(unsafe) for an id that is no 32 bits, Error(unsupported)
  // for two tokens of one id, whose text would be a guess.
  static Vocabulary read(const Field& value, const std::string& where);
  // Of tokens in order; the later of two alike has the id.
  explicit Vocabulary(std::vector<std::string> tokens);

  std::optional<uint32_t> id_of(std::string_view token) const;
  // Null where no token has it.
  const std::string* token_of(int64_t id) const;
  size_t size() const { return ids_.size(); }

 private:
  Vocabulary() = default;
  std::unordered_map<std::string, uint32_t> ids_;
  std::unordered_map<uint32_t, std::string> tokens_;
};

class Model {
 public:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  virtual ~Model() = default;
  // Appends the tokens of a word, which is not empty.  Raises Error(usage) for one that has no token
  // where the model has none for what it does not know.
  virtual void tokenize(const std::string& word, std::vector<int64_t>* ids) const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // As the library counts; ids of added tokens follow.
  virtual size_t size() const { return vocabulary_.size(); }

 private:
  Vocabulary vocabulary_;
};

// Raises Error(unsafe) for what is none, Error(unsupported) for one that is not known.
std::unique_ptr<Model> read_model(const Field& value, const std::string& where);

// The kinds, each in a file of its own; `part` has given its type.
std::unique_ptr<Model> read_bpe(Part* part);
std::unique_ptr<Model> read_unigram(Part* part);
std::unique_ptr<Model> read_word_piece(Part* part);
std::unique_ptr<Model> read_word_level(Part* part);

// "<0x0A>", the token of a byte for models that spell what they do not know.
std::string token_of_byte(unsigned char byte);

// Appends the tokens of each byte of `text`; does nothing and is false where one has none.
bool spell(std::string_view text, const Vocabulary& vocabulary, std::vector<int64_t>* ids);

// Raises Error(usage): the tokenizer has no token for a word, nor one for what it does not know.
[[noreturn]] void refuse_unknown_word(const std::string& word);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_MODEL_H_
