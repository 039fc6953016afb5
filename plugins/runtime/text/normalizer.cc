#include "text/normalizer.h"

#include <functional>
#include <utility>
#include <vector>

#include "text/byte_level.h"
#include "text/regex.h"
#include "text/replacement.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

// A normalizer that is a function.
class Simple : public Normalizer {
 public:
  using Function = std::function<std::string(std::string)>;
  Simple(Function function, bool keeps_start)
      : function_(std::move(function)), keeps_start_(keeps_start) {}
  std::string normalize(std::string text) const override { return function_(std::move(text)); }
  bool keeps_start() const override { return keeps_start_; }

 private:
  Function function_;
  bool keeps_start_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> parts) : parts_(std::move(parts)) {}
  std::string normalize(std::string text) const override {
    for (const auto& part : parts_) text = part->normalize(std::move(text));
    return text;
  }
  bool keeps_start() const override {
    for (const auto& part : parts_)
      if (!part->keeps_start()) return false;
    return true;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

std::unique_ptr<Normalizer> keeping(Simple::Function function) {
  return std::make_unique<Simple>(std::move(function), true);
}

std::unique_ptr<Normalizer> losing(Simple::Function function) {
  return std::make_unique<Simple>(std::move(function), false);
}

template <typename IsKept>
std::string filtered(const std::string& text, IsKept is_kept) {
  std::string made;
  made.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (is_kept(next_letter(text, &at))) made.append(text, begin, at - begin);
  }
  return made;
}

std::string stripped(const std::string& text, bool left, bool right) {
  size_t begin = 0, end = 0;
  bool is_inside = !left;
  for (size_t at = 0; at < text.size();) {
    const size_t letter_begin = at;
    if (is_space(next_letter(text, &at))) continue;
    if (!is_inside) begin = letter_begin;
    is_inside = true;
    end = at;
  }
  if (!is_inside) return "";
  if (!right) end = text.size();
  return end > begin ? text.substr(begin, end - begin) : "";
}

// Sets of Chinese letters as BERT has them.
bool is_chinese(char32_t letter) {
  constexpr std::pair<char32_t, char32_t> kBlocks[] = {
      {0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
      {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
  for (const auto& [first, last] : kBlocks)
    if (letter >= first && letter <= last) return true;
  return false;
}

std::string cleaned(const std::string& text) {
  std::string made;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t letter = next_letter(text, &at);
    const bool white = letter == '\t' || letter == '\n' || letter == '\r';
    if (letter == 0 || letter == 0xFFFD || (!white && is_control(letter))) continue;
    if (white || is_space(letter)) {
      made += ' ';
    } else {
      made.append(text, begin, at - begin);
    }
  }
  return made;
}

std::string spaced_chinese(const std::string& text) {
  std::string made;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const bool chinese = is_chinese(next_letter(text, &at));
    if (chinese) made += ' ';
    made.append(text, begin, at - begin);
    if (chinese) made += ' ';
  }
  return made;
}

std::unique_ptr<Normalizer> read_bert(Part* part) {
  const bool clean = part->at("clean_text").boolean();
  const bool chinese = part->at("handle_chinese_chars").boolean();
  const bool lower = part->at("lowercase").boolean();
  const bool accents = part->boolean("strip_accents", lower);
  part->done();
  return losing([=](std::string text) {
    if (clean) text = cleaned(text);
    if (chinese) text = spaced_chinese(text);
    if (accents) {
      const auto kept = [](char32_t letter) { return !is_nonspacing_mark(letter); };
      text = filtered(normalized(text, Form::nfd), kept);
    }
    return lower ? lowered(text) : text;
  });
}

// What SentencePiece does to control characters and to what it takes for spaces.
std::string nmt(const std::string& text) {
  std::string made;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_letter(text, &at);
    if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
        c == 0x8F || c == 0x9F) {
      continue;
    }
    const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == 0xFFFD;
    if (space) {
      made += ' ';
    } else {
      made.append(text, begin, at - begin);
    }
  }
  return made;
}

std::unique_ptr<Normalizer> read_sequence(Part* part) {
  std::vector<std::unique_ptr<Normalizer>> parts;
  for (const Field& each : part->at("normalizers").list()) {
    parts.push_back(read_normalizer(each, part->where()));
  }
  part->done();
  return std::make_unique<Sequence>(std::move(parts));
}

std::unique_ptr<Normalizer> of_form(Form form) {
  return keeping([form](std::string text) { return normalized(text, form); });
}

}  // namespace

std::unique_ptr<Normalizer> read_normalizer(const Field& value, const std::string& where) {
  Part part(value, "a normalizer", where);
  const std::string& type = part.type();
  if (type == "Sequence") return read_sequence(&part);
  if (type == "BertNormalizer") return read_bert(&part);
  if (type == "Strip") {
    const bool left = part.at("strip_left").boolean(), right = part.at("strip_right").boolean();
    part.done();
    return losing([=](std::string text) { return stripped(text, left, right); });
  }
  if (type == "Prepend") {
    const std::string front = part.at("prepend").text();
    part.done();
    return keeping([front](std::string text) { return text.empty() ? text : front + text; });
  }
  if (type == "Replace") {
    const Replacement replacement = Replacement::read(&part);
    return losing([replacement](std::string text) { return replacement.of(text); });
  }
  part.done();
  if (type == "NFC") return of_form(Form::nfc);
  if (type == "NFD") return of_form(Form::nfd);
  if (type == "NFKC") return of_form(Form::nfkc);
  if (type == "NFKD") return of_form(Form::nfkd);
  if (type == "Lowercase") return keeping([](std::string text) { return lowered(text); });
  if (type == "Nmt") return losing([](std::string text) { return nmt(text); });
  if (type == "ByteLevel") return keeping([](std::string text) { return letters_of_bytes(text); });
  if (type == "StripAccents") {
    const auto kept = [](char32_t letter) { return !is_mark(letter); };
    return losing([kept](std::string text) { return filtered(text, kept); });
  }
  part.unknown();
}

}  // namespace moe::runtime
