// Models that know words: WordLevel whole ones, WordPiece ones of the longest pieces (BERT).
#include "text/model.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

class WordLevel : public Model {
 public:
  WordLevel(Vocabulary vocabulary, const std::string& unknown)
      : Model(std::move(vocabulary)), unknown_(this->vocabulary().id_of(unknown)) {}

  void tokenize(const std::string& word, std::vector<int64_t>* ids) const override {
    if (const auto id = vocabulary().id_of(word)) {
      ids->push_back(*id);
    } else if (unknown_) {
      ids->push_back(*unknown_);
    } else {
      refuse_unknown_word(word);
    }
  }

 private:
  std::optional<uint32_t> unknown_;
};

class WordPiece : public Model {
 public:
  WordPiece(Vocabulary vocabulary, const std::string& unknown, std::string prefix,
            int64_t max_letters)
      : Model(std::move(vocabulary)),
        unknown_(this->vocabulary().id_of(unknown)),
        prefix_(std::move(prefix)),
        max_letters_(max_letters) {}

  void tokenize(const std::string& word, std::vector<int64_t>* ids) const override {
    const size_t before = ids->size();
    if (letters_of(word) <= max_letters_ && in_pieces(word, ids)) return;
    ids->resize(before);
    if (!unknown_) refuse_unknown_word(word);
    ids->push_back(*unknown_);
  }

 private:
  static int64_t letters_of(const std::string& word) {
    int64_t count = 0;
    for (size_t at = 0; at < word.size(); ++count) next_letter(word, &at);
    return count;
  }

  // False where what is left of the word begins with no piece.
  bool in_pieces(const std::string& word, std::vector<int64_t>* ids) const {
    for (size_t begin = 0; begin < word.size();) {
      size_t end = word.size();
      std::optional<uint32_t> id;
      while (begin < end) {
        const std::string piece = word.substr(begin, end - begin);
        id = vocabulary().id_of(begin > 0 ? prefix_ + piece : piece);
        if (id) break;
        do --end;
        while (end > begin && (static_cast<unsigned char>(word[end]) & 0xC0) == 0x80);
      }
      if (!id) return false;
      ids->push_back(*id);
      begin = end;
    }
    return true;
  }

  std::optional<uint32_t> unknown_;
  std::string prefix_;
  int64_t max_letters_;
};

// Beyond this, looking for the longest piece of a word takes too long.
constexpr int64_t kMostLetters = 10'000;

}  // namespace

std::unique_ptr<Model> read_word_level(Part* part) {
  Vocabulary vocabulary = Vocabulary::read(part->at("vocab"), part->where());
  const std::string unknown = part->at("unk_token").text();
  part->done();
  return std::make_unique<WordLevel>(std::move(vocabulary), unknown);
}

std::unique_ptr<Model> read_word_piece(Part* part) {
  Vocabulary vocabulary = Vocabulary::read(part->at("vocab"), part->where());
  const std::string unknown = part->at("unk_token").text();
  const std::string prefix = part->at("continuing_subword_prefix").text();
  const int64_t max_letters = part->at("max_input_chars_per_word").integer();
  part->done();
  if (max_letters < 0 || max_letters > kMostLetters) part->refuse("words of too many letters");
  return std::make_unique<WordPiece>(std::move(vocabulary), unknown, prefix, max_letters);
}

}  // namespace moe::runtime
