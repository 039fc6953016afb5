#include "text/added_tokens.h"

#include <algorithm>

#include "core/words.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

// The letter that ends in front of `end`; `*begin` becomes its place.
char32_t letter_before(std::string_view text, size_t end, size_t* begin) {
  *begin = end - 1;
  while (*begin > 0 && (static_cast<unsigned char>(text[*begin]) & 0xC0) == 0x80) --*begin;
  size_t at = *begin;
  return next_letter(text, &at);
}

bool is_single_word(std::string_view text, size_t begin, size_t end) {
  size_t at = end, before;
  if (begin > 0 && is_word(letter_before(text, begin, &before))) return false;
  return end == text.size() || !is_word(next_letter(text, &at));
}

size_t behind_spaces(std::string_view text, size_t from) {
  while (from < text.size()) {
    size_t at = from;
    if (!is_space(next_letter(text, &at))) break;
    from = at;
  }
  return from;
}

size_t before_spaces(std::string_view text, size_t from, size_t least) {
  while (from > least) {
    size_t begin;
    if (!is_space(letter_before(text, from, &begin))) break;
    from = begin;
  }
  return std::max(from, least);
}

}  // namespace

void Texts::put(const std::string& text, int64_t token, const std::string& where) {
  if (text.empty()) return;
  if (!tokens_.emplace(text, token).second) {
    throw Error(Kind::unsupported, "two added tokens are both " + in_quotes(text) + " in text",
                where);
  }
  auto& lengths = lengths_[static_cast<unsigned char>(text[0])];
  const auto place = std::lower_bound(lengths.begin(), lengths.end(), text.size(), std::greater<>());
  if (place == lengths.end() || *place != text.size()) lengths.insert(place, text.size());
}

std::optional<int64_t> Texts::longest(std::string_view text, size_t at, size_t* length) const {
  for (const size_t each : lengths_[static_cast<unsigned char>(text[at])]) {
    if (each > text.size() - at) continue;
    const auto found = tokens_.find(std::string(text.substr(at, each)));
    if (found == tokens_.end()) continue;
    *length = each;
    return found->second;
  }
  return std::nullopt;
}

AddedTokens AddedTokens::read(const Field& value, const Model& model, const Normalizer* normalizer,
                              const std::string& where) {
  AddedTokens made;
  int64_t next = static_cast<int64_t>(model.size());
  for (const Field& each : value.list()) {
    Members members(each);
    Token token;
    members.at("id").integer();
    token.content = token.shown = members.at("content").text();
    token.single_word = members.at("single_word").boolean();
    token.lstrip = members.at("lstrip").boolean();
    token.rstrip = members.at("rstrip").boolean();
    token.normalized = members.at("normalized").boolean();
    const bool special = members.at("special").boolean();
    if (const auto name = members.unknown()) {
      throw Error(Kind::unsupported, "an added token has a setting " + in_quotes(*name), where);
    }
    if (token.content.empty()) continue;
    if (token.normalized && normalizer) token.shown = normalizer->normalize(token.content);
    std::optional<int64_t> id = made.id_of(token.content);
    if (!id) id = model.vocabulary().id_of(token.content);
    if (!id) id = next++;
    made.ids_[token.content] = *id;
    if (special) made.special_.insert(token.content);
    made.tokens_[*id] = std::move(token);
  }
  for (const auto& [id, token] : made.tokens_) {
    (token.normalized ? made.normalized_ : made.as_written_).put(token.shown, id, where);
  }
  return made;
}

PiecesOfText AddedTokens::found_in(std::string_view text, const Normalizer* normalizer) const {
  PiecesOfText pieces, made;
  find(as_written_, {std::string(text), true}, &pieces);
  for (Piece& piece : pieces) {
    if (piece.token != Piece::kText) {
      made.push_back(std::move(piece));
      continue;
    }
    if (normalizer) piece.text = normalizer->normalize(std::move(piece.text));
    find(normalized_, piece, &made);
  }
  return made;
}

std::optional<int64_t> AddedTokens::id_of(std::string_view token) const {
  const auto found = ids_.find(std::string(token));
  return found == ids_.end() ? std::nullopt : std::optional<int64_t>(found->second);
}

const std::string* AddedTokens::token_of(int64_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.shown;
}

void AddedTokens::find(const Texts& texts, const Piece& piece, PiecesOfText* made) const {
  const std::string_view text = piece.text;
  size_t behind = 0;
  const auto put = [&](size_t begin, size_t end, int64_t token) {
    if (begin == end) return;
    made->push_back(
        {std::string(text.substr(begin, end - begin)), piece.at_start && begin == 0, token});
  };
  for (size_t at = 0; at < text.size() && !texts.empty();) {
    size_t length = 0;
    const auto id = texts.longest(text, at, &length);
    if (!id) {
      at += length_of(text[at]);
      continue;
    }
    const Token& token = tokens_.at(*id);
    size_t begin = at, end = at + length;
    at = end;
    if (token.single_word && !is_single_word(text, begin, end)) continue;
    // Spaces may belong to the token in front already.
    if (token.lstrip) begin = before_spaces(text, begin, std::min(behind, begin));
    if (token.rstrip) end = behind_spaces(text, end);
    if (behind < begin) put(behind, begin, Piece::kText);
    put(begin, end, *id);
    behind = end;
  }
  put(behind, text.size(), Piece::kText);
}

}  // namespace moe::runtime
