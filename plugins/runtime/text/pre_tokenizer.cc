#include "text/pre_tokenizer.h"

#include <functional>
#include <vector>

#include "core/error.h"
#include "text/byte_level.h"
#include "text/metaspace.h"
#include "text/replacement.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

// Splits at the letters for which a condition holds.
class AtLetters : public PreTokenizer {
 public:
  AtLetters(std::function<bool(char32_t)> is_found, Behavior behavior)
      : is_found_(std::move(is_found)), behavior_(behavior) {}
  void split(Piece piece, PiecesOfText* made) const override {
    moe::runtime::split(piece, ranges_of(piece.text, is_found_), behavior_, made);
  }

 private:
  std::function<bool(char32_t)> is_found_;
  Behavior behavior_;
};

class AtPattern : public PreTokenizer {
 public:
  AtPattern(Regex pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void split(Piece piece, PiecesOfText* made) const override {
    std::vector<Range> ranges = pattern_.ranges(piece.text);
    for (Range& range : ranges) range.found = range.found != invert_;
    moe::runtime::split(piece, ranges, behavior_, made);
  }

 private:
  Regex pattern_;
  Behavior behavior_;
  bool invert_;
};

// Runs of letters of words, and of others that are no spaces.
class Words : public PreTokenizer {
 public:
  void split(Piece piece, PiecesOfText* made) const override {
    size_t begin = 0;
    int kind = kSpace;
    for (size_t at = 0; at < piece.text.size();) {
      const size_t letter_begin = at;
      const char32_t letter = next_letter(piece.text, &at);
      const int next = is_word(letter) ? kWord : is_space(letter) ? kSpace : kOther;
      if (next == kind) continue;
      put(piece, begin, letter_begin, kind, made);
      begin = letter_begin;
      kind = next;
    }
    put(piece, begin, piece.text.size(), kind, made);
  }

 private:
  enum { kSpace, kWord, kOther };
  static void put(const Piece& piece, size_t begin, size_t end, int kind, PiecesOfText* made) {
    if (kind == kSpace || begin == end) return;
    made->push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
  }
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, const std::string& where)
      : add_prefix_space_(add_prefix_space) {
    // The words of GPT-2.
    if (use_regex) {
      words_ = Regex::of_pattern(
          R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", where);
    }
  }
  void split(Piece piece, PiecesOfText* made) const override {
    if (add_prefix_space_ && piece.text.front() != ' ') piece.text.insert(0, " ");
    const size_t first = made->size();
    if (words_) {
      moe::runtime::split(piece, words_->ranges(piece.text), Behavior::isolated, made);
    } else {
      made->push_back(std::move(piece));
    }
    for (size_t i = first; i < made->size(); ++i) (*made)[i].text = letters_of_bytes((*made)[i].text);
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> words_;
};

class MetaspaceSplit : public PreTokenizer {
 public:
  explicit MetaspaceSplit(Metaspace metaspace) : metaspace_(std::move(metaspace)) {}
  void split(Piece piece, PiecesOfText* made) const override {
    piece.text = metaspace_.replaced(piece.text, piece.at_start);
    if (!metaspace_.split) {
      made->push_back(std::move(piece));
      return;
    }
    const auto is_found = [&](char32_t letter) { return letter == metaspace_.replacement; };
    moe::runtime::split(piece, ranges_of(piece.text, is_found), Behavior::merged_with_next, made);
  }
  bool needs_start() const override { return metaspace_.prepend == Metaspace::Prepend::first; }

 private:
  Metaspace metaspace_;
};

class FixedLength : public PreTokenizer {
 public:
  explicit FixedLength(int64_t length) : length_(length) {}
  void split(Piece piece, PiecesOfText* made) const override {
    int64_t letters = 0;
    size_t begin = 0;
    for (size_t at = 0; at < piece.text.size();) {
      next_letter(piece.text, &at);
      if (++letters < length_ && at < piece.text.size()) continue;
      made->push_back({piece.text.substr(begin, at - begin), piece.at_start && begin == 0});
      begin = at;
      letters = 0;
    }
  }

 private:
  int64_t length_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> parts) : parts_(std::move(parts)) {}
  void split(Piece piece, PiecesOfText* made) const override {
    PiecesOfText pieces;
    pieces.push_back(std::move(piece));
    for (const auto& part : parts_) part->run(&pieces);
    for (Piece& each : pieces) made->push_back(std::move(each));
  }
  bool needs_start() const override {
    for (const auto& part : parts_)
      if (part->needs_start()) return true;
    return false;
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

std::unique_ptr<PreTokenizer> at_letters(bool (*is_found)(char32_t), Behavior behavior) {
  return std::make_unique<AtLetters>(is_found, behavior);
}

std::unique_ptr<PreTokenizer> read_sequence(Part* part) {
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  for (const Field& each : part->at("pretokenizers").list()) {
    parts.push_back(read_pre_tokenizer(each, part->where()));
  }
  part->done();
  return std::make_unique<Sequence>(std::move(parts));
}

std::unique_ptr<PreTokenizer> read_split(Part* part) {
  Regex pattern = read_pattern(part->at("pattern"), part->where());
  const Behavior behavior = read_behavior(part->at("behavior"));
  const bool invert = part->at("invert").boolean();
  part->done();
  return std::make_unique<AtPattern>(std::move(pattern), behavior, invert);
}

std::unique_ptr<PreTokenizer> read_byte_level(Part* part) {
  const bool space = part->at("add_prefix_space").boolean();
  const bool regex = part->boolean("use_regex", true);
  part->boolean("trim_offsets", true);  // says where tokens stood, which nobody asks here
  part->done();
  return std::make_unique<ByteLevel>(space, regex, part->where());
}

}  // namespace

void PreTokenizer::run(PiecesOfText* pieces) const {
  PiecesOfText made;
  made.reserve(pieces->size());
  for (Piece& piece : *pieces) {
    if (piece.token != Piece::kText) {
      made.push_back(std::move(piece));
    } else if (!piece.text.empty()) {
      split(std::move(piece), &made);
    }
  }
  *pieces = std::move(made);
}

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const Field& value, const std::string& where) {
  Part part(value, "a pre-tokenizer", where);
  const std::string& type = part.type();
  if (type == "Sequence") return read_sequence(&part);
  if (type == "Split") return read_split(&part);
  if (type == "ByteLevel") return read_byte_level(&part);
  if (type == "Metaspace") return std::make_unique<MetaspaceSplit>(Metaspace::read(&part));
  if (type == "Digits") {
    const bool each = part.at("individual_digits").boolean();
    part.done();
    return at_letters(is_numeric, each ? Behavior::isolated : Behavior::contiguous);
  }
  if (type == "Punctuation") {
    const auto behavior = part.given("behavior");
    const Behavior how = behavior ? read_behavior(*behavior) : Behavior::isolated;
    part.done();
    return at_letters(is_punctuation, how);
  }
  if (type == "CharDelimiterSplit") {
    const char32_t delimiter = part.letter("delimiter");
    part.done();
    const auto is_found = [delimiter](char32_t letter) { return letter == delimiter; };
    return std::make_unique<AtLetters>(is_found, Behavior::removed);
  }
  if (type == "FixedLength") {
    const auto given = part.given("length");
    const int64_t length = given ? given->integer() : 5;
    part.done();
    if (length < 1) part.refuse("a length below 1");
    return std::make_unique<FixedLength>(length);
  }
  part.done();
  if (type == "WhitespaceSplit") return at_letters(is_space, Behavior::removed);
  if (type == "Whitespace") return std::make_unique<Words>();
  if (type == "BertPreTokenizer") {
    std::vector<std::unique_ptr<PreTokenizer>> parts;
    parts.push_back(at_letters(is_space, Behavior::removed));
    parts.push_back(at_letters(is_punctuation, Behavior::isolated));
    return std::make_unique<Sequence>(std::move(parts));
  }
  part.unknown();
}

}  // namespace moe::runtime
