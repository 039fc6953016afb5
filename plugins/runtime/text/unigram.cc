// Unigram: of all ways to cut a word into tokens, the one of the highest score (SentencePiece).
#include <algorithm>
#include <limits>

#include "text/model.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

// What an unknown letter costs beside the least likely token.
constexpr double kUnknownPenalty = 10.0;

// Tokens letter by letter, so that all that a text begins with are found in one walk.
class Trie {
 public:
  void put(std::string_view token, uint32_t id) {
    uint32_t node = 0;
    for (const char byte : token) {
      const auto [child, is_new] = children_.emplace(key(node, byte), nodes_);
      if (is_new) {
        ++nodes_;
        ids_.push_back(kNone);
      }
      node = child->second;
    }
    ids_[node] = id;
  }

  // Calls visit(length, id) for each token that `text` begins with, the shortest first.
  template <typename Visit>
  void prefixes(std::string_view text, Visit visit) const {
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto child = children_.find(key(node, text[i]));
      if (child == children_.end()) return;
      node = child->second;
      if (ids_[node] != kNone) visit(i + 1, ids_[node]);
    }
  }

 private:
  static constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  static uint64_t key(uint32_t node, char byte) {
    return uint64_t(node) << 8 | static_cast<unsigned char>(byte);
  }
  std::unordered_map<uint64_t, uint32_t> children_;
  std::vector<uint32_t> ids_ = {kNone};
  uint32_t nodes_ = 1;
};

class Unigram : public Model {
 public:
  Unigram(std::vector<std::string> tokens, std::vector<double> scores,
          std::optional<int64_t> unknown, bool byte_fallback)
      : Model(Vocabulary(tokens)),
        scores_(std::move(scores)),
        unknown_(unknown),
        byte_fallback_(byte_fallback) {
    for (size_t id = 0; id < tokens.size(); ++id) {
      if (!tokens[id].empty()) trie_.put(tokens[id], static_cast<uint32_t>(id));
      least_ = std::min(least_, scores_[id]);
    }
  }

  size_t size() const override { return scores_.size(); }

  void tokenize(const std::string& word, std::vector<int64_t>* ids) const override {
    for (const std::string& piece : best(word)) {
      if (const auto id = vocabulary().id_of(piece)) {
        ids->push_back(*id);
      } else if (!byte_fallback_ || !spell(piece, vocabulary(), ids)) {
        if (!unknown_) refuse_unknown_word(piece);
        ids->push_back(*unknown_);
      }
    }
  }

 private:
  // The best way from the beginning to a place, by the token that ends there.
  struct Way {
    double score = 0;
    size_t begin = 0;
    bool known = false;
    bool is_unknown = false;
  };

  void improve(Way* way, double score, size_t begin, bool is_unknown) const {
    if (way->known && score <= way->score) return;
    *way = {score, begin, true, is_unknown};
  }

  // The text of each token; unknown letters that stand together are one.
  std::vector<std::string> best(const std::string& word) const {
    std::vector<Way> ways(word.size() + 1);
    for (size_t begin = 0; begin < word.size();) {
      const double so_far = ways[begin].score;
      const size_t letter = length_of(word[begin]);
      bool has_letter = false;
      trie_.prefixes(std::string_view(word).substr(begin), [&](size_t length, uint32_t id) {
        improve(&ways[begin + length], scores_[id] + so_far, begin,
                unknown_ && *unknown_ == static_cast<int64_t>(id));
        has_letter = has_letter || length == letter;
      });
      if (!has_letter) {
        if (!unknown_) refuse_unknown_word(word.substr(begin, letter));
        improve(&ways[begin + letter], least_ - kUnknownPenalty + so_far, begin, true);
      }
      begin += letter;
    }
    std::vector<std::string> pieces;
    bool fuses = false;
    for (size_t end = word.size(); end > 0; end = ways[end].begin) {
      const Way& way = ways[end];
      std::string piece = word.substr(way.begin, end - way.begin);
      if (way.is_unknown && fuses) {
        pieces.back().insert(0, piece);
      } else {
        pieces.push_back(std::move(piece));
      }
      fuses = way.is_unknown;
    }
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
  }

  Trie trie_;
  std::vector<double> scores_;
  std::optional<int64_t> unknown_;
  bool byte_fallback_;
  double least_ = std::numeric_limits<double>::infinity();
};

}  // namespace

std::unique_ptr<Model> read_unigram(Part* part) {
  std::vector<std::string> tokens;
  std::vector<double> scores;
  const Field vocabulary = part->at("vocab");
  for (const Field& each : vocabulary.list()) {
    const std::vector<Field> pair = each.list();
    if (pair.size() != 2) each.refuse("expected a token and its score");
    tokens.push_back(pair[0].text());
    scores.push_back(pair[1].number());
  }
  std::optional<int64_t> unknown;
  if (const auto id = part->given("unk_id")) {
    unknown = id->integer();
    if (*unknown < 0 || *unknown >= static_cast<int64_t>(tokens.size())) {
      id->refuse("unk_id is no token of the vocabulary");
    }
  }
  const bool byte_fallback = part->boolean("byte_fallback", false);
  part->done();
  return std::make_unique<Unigram>(std::move(tokens), std::move(scores), unknown, byte_fallback);
}

}  // namespace moe::runtime
