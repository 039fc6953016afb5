#include "text/tokenizer.h"

#include "core/error.h"
#include "core/json.h"
#include "core/words.h"
#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/model.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

// A sequence of sequences is as deep as any file was ever seen.
constexpr int kMaxLevels = 32;

void refuse(const std::string& what, const std::string& where) {
  throw Error(Kind::unsupported, what, where,
              "the Python runtime runs every tokenizer of the tokenizers library");
}

}  // namespace

struct Tokenizer::Parts {
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<Model> model;
  AddedTokens added;
  PostProcessor post_processor;
  std::unique_ptr<Decoder> decoder;
};

Tokenizer Tokenizer::from_json(std::string_view bytes, const std::string& where) {
  const json value = parse(bytes, where, kMaxLevels);
  Members members(value, where);
  auto parts = std::make_shared<Parts>();
  if (members.at("version").text() != "1.0") refuse("a tokenizer of another version than 1.0", where);
  // These change how many tokens a text has.
  for (const char* name : {"truncation", "padding"}) {
    if (members.given(name)) refuse(std::string("a tokenizer with ") + name, where);
  }
  parts->model = read_model(members.at("model"), where);
  if (const auto each = members.given("normalizer")) {
    parts->normalizer = read_normalizer(*each, where);
  }
  if (const auto each = members.given("pre_tokenizer")) {
    parts->pre_tokenizer = read_pre_tokenizer(*each, where);
  }
  if (const auto each = members.given("post_processor")) {
    parts->post_processor = PostProcessor::read(*each, where);
  }
  if (const auto each = members.given("decoder")) parts->decoder = read_decoder(*each, where);
  if (const auto each = members.given("added_tokens")) {
    parts->added = AddedTokens::read(*each, *parts->model, parts->normalizer.get(), where);
  }
  if (const auto name = members.unknown()) refuse("a tokenizer with " + in_quotes(*name), where);
  const bool needs_start = parts->pre_tokenizer && parts->pre_tokenizer->needs_start();
  if (needs_start && parts->normalizer && !parts->normalizer->keeps_start()) {
    refuse("a pre-tokenizer that asks where the text begins, behind a normalizer that may move it",
           where);
  }
  return Tokenizer(std::move(parts));
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  if (!is_utf8(text)) throw Error(Kind::usage, "the text is not UTF-8");
  PiecesOfText pieces = parts_->added.found_in(text, parts_->normalizer.get());
  if (parts_->pre_tokenizer) parts_->pre_tokenizer->run(&pieces);
  std::vector<int64_t> ids;
  for (const Piece& piece : pieces) {
    if (piece.token != Piece::kText) {
      ids.push_back(piece.token);
    } else if (!piece.text.empty()) {
      parts_->model->tokenize(piece.text, &ids);
    }
  }
  return parts_->post_processor.around(ids, add_special);
}

std::string Tokenizer::decode(const std::vector<int64_t>& ids, bool skip_special) const {
  std::vector<std::string> tokens;
  for (const int64_t id : ids) {
    const std::string* token = parts_->added.token_of(id);
    if (!token) token = parts_->model->vocabulary().token_of(id);
    if (!token || (skip_special && parts_->added.is_special(*token))) continue;
    tokens.push_back(*token);
  }
  const bool spaced = !parts_->decoder;
  if (parts_->decoder) tokens = parts_->decoder->decode(std::move(tokens));
  std::string made;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (spaced && i > 0) made += ' ';
    made += tokens[i];
  }
  return made;
}

std::optional<int64_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const auto id = parts_->added.id_of(token)) return id;
  const auto id = parts_->model->vocabulary().id_of(token);
  return id ? std::optional<int64_t>(*id) : std::nullopt;
}

}  // namespace moe::runtime
