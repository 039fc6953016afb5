#include "text/model.h"

#include <cstdio>
#include <limits>

#include "core/words.h"

namespace moe::runtime {

Vocabulary Vocabulary::read(const Field& value, const std::string& where) {
  Vocabulary made;
  if (!value.value().is_object()) value.refuse("expected an object of tokens and their ids");
  made.ids_.reserve(value.value().size());
  made.tokens_.reserve(value.value().size());
  for (const auto& [token, id] : value.value().items()) {
    const bool fits = id.is_number_integer() && id.get<int64_t>() >= 0 &&
                      id.get<uint64_t>() <= std::numeric_limits<uint32_t>::max();
    if (!fits) value.refuse("the id of " + in_quotes(token) + " is none");
    const auto number = static_cast<uint32_t>(id.get<uint64_t>());
    const auto [place, is_new] = made.tokens_.emplace(number, token);
    if (!is_new) {
      throw Error(Kind::unsupported,
                  "the tokens " + in_quotes(token) + " and " + in_quotes(place->second) +
                      " have one id",
                  where);
    }
    made.ids_.emplace(token, number);
  }
  return made;
}

Vocabulary::Vocabulary(std::vector<std::string> tokens) {
  ids_.reserve(tokens.size());
  tokens_.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    ids_[tokens[id]] = static_cast<uint32_t>(id);
    tokens_.emplace(static_cast<uint32_t>(id), std::move(tokens[id]));
  }
}

std::optional<uint32_t> Vocabulary::id_of(std::string_view token) const {
  const auto found = ids_.find(std::string(token));
  return found == ids_.end() ? std::nullopt : std::optional<uint32_t>(found->second);
}

const std::string* Vocabulary::token_of(int64_t id) const {
  if (id < 0 || id > std::numeric_limits<uint32_t>::max()) return nullptr;
  const auto found = tokens_.find(static_cast<uint32_t>(id));
  return found == tokens_.end() ? nullptr : &found->second;
}

std::unique_ptr<Model> read_model(const Field& value, const std::string& where) {
  Part part(value, "a model", where);
  if (part.type() == "BPE") return read_bpe(&part);
  if (part.type() == "Unigram") return read_unigram(&part);
  if (part.type() == "WordPiece") return read_word_piece(&part);
  if (part.type() == "WordLevel") return read_word_level(&part);
  part.unknown();
}

std::string token_of_byte(unsigned char byte) {
  char text[8];
  std::snprintf(text, sizeof text, "<0x%02X>", byte);
  return text;
}

bool spell(std::string_view text, const Vocabulary& vocabulary, std::vector<int64_t>* ids) {
  const size_t before = ids->size();
  for (const char byte : text) {
    const auto id = vocabulary.id_of(token_of_byte(static_cast<unsigned char>(byte)));
    if (!id) {
      ids->resize(before);
      return false;
    }
    ids->push_back(*id);
  }
  return true;
}

void refuse_unknown_word(const std::string& word) {
  throw Error(Kind::usage, "the tokenizer has no token for " + in_quotes(word), "",
              "ask in other words");
}

}  // namespace moe::runtime
