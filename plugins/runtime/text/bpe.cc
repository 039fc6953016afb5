// Byte pair encoding: letters, of which the pair that was merged first is merged first.
#include <queue>

#include "core/words.h"
#include "text/model.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

// Where a pair stands in the order of merges, and what it becomes.
struct Merge {
  uint32_t rank, id;
};

struct Settings {
  std::optional<std::string> unknown;
  std::string prefix, suffix;  // of letters that do not begin a word, and of those that end it
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
};

uint64_t pair_of(uint32_t left, uint32_t right) { return uint64_t(left) << 32 | right; }

class Bpe : public Model {
 public:
  using Merges = std::unordered_map<uint64_t, Merge>;
  Bpe(Vocabulary vocabulary, Merges merges, Settings settings)
      : Model(std::move(vocabulary)), merges_(std::move(merges)), settings_(std::move(settings)) {}

  void tokenize(const std::string& word, std::vector<int64_t>* ids) const override {
    if (settings_.ignore_merges) {
      if (const auto whole = vocabulary().id_of(word)) {
        ids->push_back(*whole);
        return;
      }
    }
    std::vector<int64_t> letters = letters_of(word);
    merge(&letters, ids);
  }

 private:
  // The ids of a word's letters, and of bytes or of the unknown where a letter has none.
  std::vector<int64_t> letters_of(const std::string& word) const {
    std::vector<int64_t> made;
    bool was_unknown = false;
    for (size_t at = 0; at < word.size();) {
      const size_t begin = at;
      next_letter(word, &at);
      std::string letter = word.substr(begin, at - begin);
      if (begin != 0) letter.insert(0, settings_.prefix);
      if (at == word.size()) letter += settings_.suffix;
      if (const auto id = vocabulary().id_of(letter)) {
        made.push_back(*id);
        was_unknown = false;
        continue;
      }
      if (settings_.byte_fallback) {
        // The library puts the unknown, which it holds back to fuse it, behind such bytes.
        std::vector<int64_t> bytes;
        if (spell(letter, vocabulary(), &bytes)) {
          if (was_unknown) {
            made.insert(made.end() - 1, bytes.begin(), bytes.end());
          } else {
            made.insert(made.end(), bytes.begin(), bytes.end());
          }
          continue;
        }
      }
      if (!settings_.unknown) continue;
      if (was_unknown && settings_.fuse_unknown) continue;
      const auto unknown = vocabulary().id_of(*settings_.unknown);
      if (!unknown) refuse_unknown_word(letter);
      made.push_back(*unknown);
      was_unknown = true;
    }
    return made;
  }

  // A symbol of a word; what was merged away has no neighbours and is skipped.
  struct Symbol {
    uint32_t id;
    int previous, next;
    bool gone = false;
  };

  // A pair that may be merged, by its left symbol.
  struct Candidate {
    uint32_t rank;
    int place;
    uint32_t id;
    // The queue gives the largest first.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };

  void merge(std::vector<int64_t>* letters, std::vector<int64_t>* ids) const {
    const int count = static_cast<int>(letters->size());
    std::vector<Symbol> symbols;
    symbols.reserve(letters->size());
    for (int i = 0; i < count; ++i) {
      symbols.push_back({static_cast<uint32_t>((*letters)[size_t(i)]), i - 1,
                         i + 1 < count ? i + 1 : -1});
    }
    std::priority_queue<Candidate> queue;
    const auto consider = [&](int place) {
      const Symbol& left = symbols[size_t(place)];
      if (left.next < 0) return;
      const auto found = merges_.find(pair_of(left.id, symbols[size_t(left.next)].id));
      if (found != merges_.end()) queue.push({found->second.rank, place, found->second.id});
    };
    for (int i = 0; i < count; ++i) consider(i);
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = symbols[size_t(best.place)];
      if (left.gone || left.next < 0) continue;
      Symbol& right = symbols[size_t(left.next)];
      // The pair may have become another since it was considered.
      const auto found = merges_.find(pair_of(left.id, right.id));
      if (found == merges_.end() || found->second.id != best.id) continue;
      left.id = best.id;
      left.next = right.next;
      right.gone = true;
      if (left.next >= 0) symbols[size_t(left.next)].previous = best.place;
      if (left.previous >= 0) consider(left.previous);
      consider(best.place);
    }
    for (const Symbol& symbol : symbols)
      if (!symbol.gone) ids->push_back(symbol.id);
  }

  Merges merges_;
  Settings settings_;
};

// Both halves of a merge: a list of two, or in older files a text with a space between.
std::pair<std::string, std::string> halves_of(const Field& merge) {
  if (merge.value().is_array()) {
    const std::vector<std::string> halves = merge.texts();
    if (halves.size() != 2) merge.refuse("a merge is of two tokens");
    return {halves[0], halves[1]};
  }
  const std::string text = merge.text();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    merge.refuse("a merge is of two tokens");
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

Bpe::Merges read_merges(const Field& value, const Vocabulary& vocabulary,
                        const std::string& prefix) {
  Bpe::Merges made;
  const std::vector<Field> merges = value.list();
  made.reserve(merges.size());
  uint32_t rank = 0;
  for (const Field& merge : merges) {
    if (merge.value().is_string() && merge.text().compare(0, 8, "#version") == 0) continue;
    const auto [left, right] = halves_of(merge);
    const auto id_of = [&](const std::string& token) {
      const auto id = vocabulary.id_of(token);
      if (!id) merge.refuse("the token " + in_quotes(token) + " of a merge is not in the vocabulary");
      return *id;
    };
    if (right.size() < prefix.size()) merge.refuse("the right half of a merge has no prefix");
    made[pair_of(id_of(left), id_of(right))] = {rank++, id_of(left + right.substr(prefix.size()))};
  }
  return made;
}

}  // namespace

std::unique_ptr<Model> read_bpe(Part* part) {
  if (const auto dropout = part->given("dropout")) {
    if (dropout->number() != 0) part->unsupported("has a dropout: one text has many tokenizations");
  }
  Settings settings;
  if (const auto unknown = part->given("unk_token")) settings.unknown = unknown->text();
  settings.prefix = part->text("continuing_subword_prefix", "");
  settings.suffix = part->text("end_of_word_suffix", "");
  settings.fuse_unknown = part->boolean("fuse_unk", false);
  settings.byte_fallback = part->boolean("byte_fallback", false);
  settings.ignore_merges = part->boolean("ignore_merges", false);
  Vocabulary vocabulary = Vocabulary::read(part->at("vocab"), part->where());
  Bpe::Merges merges = read_merges(part->at("merges"), vocabulary, settings.prefix);
  part->done();
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(settings));
}

}  // namespace moe::runtime
