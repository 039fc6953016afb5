#include "text/decoder.h"

#include <algorithm>
#include <cctype>
#include <functional>

#include "text/byte_level.h"
#include "text/metaspace.h"
#include "text/replacement.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

using Texts = std::vector<std::string>;

// A decoder that is a function.
class Simple : public Decoder {
 public:
  using Function = std::function<Texts(Texts)>;
  explicit Simple(Function function) : function_(std::move(function)) {}
  Texts decode(Texts tokens) const override { return function_(std::move(tokens)); }

 private:
  Function function_;
};

std::unique_ptr<Decoder> of(Simple::Function function) {
  return std::make_unique<Simple>(std::move(function));
}

// A decoder of each token, which it may change; it is told whether it is the first.
std::unique_ptr<Decoder> of_each(std::function<void(std::string*, bool)> change) {
  return of([change](Texts tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) change(&tokens[i], i == 0);
    return tokens;
  });
}

std::string replaced(const std::string& text, const std::string& part, const std::string& with) {
  if (part.empty()) return text;
  std::string made;
  size_t from = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, from)) {
    made.append(text, from, at - from);
    made += with;
    from = at + part.size();
  }
  return made.append(text, from);
}

// Joins again what word tokenizers of English take apart.
std::string cleaned(std::string text) {
  constexpr const char* kPairs[][2] = {
      {" .", "."},     {" ?", "?"},     {" !", "!"},         {" ,", ","},
      {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"},       {" do not", " don't"},
      {" 's", "'s"},   {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [part, with] : kPairs) text = replaced(text, part, with);
  return text;
}

Texts from_byte_level(const Texts& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) append_bytes_of_letters(token, &bytes);
  return {mended(bytes)};
}

// The byte that a token such as <0x0A> stands for, or -1.
int byte_of(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') return -1;
  const auto digit = [&](size_t i) {
    const int c = std::tolower(static_cast<unsigned char>(token[i]));
    return std::isdigit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  // The library reads the number as Rust does, with a sign if there is one.
  const int high = token[3] == '+' ? 0 : digit(3), low = digit(4);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// Bytes in a row are their text; where that is none, each is a letter that is none.
Texts from_bytes(const Texts& tokens) {
  Texts made;
  std::string bytes;
  const auto put = [&] {
    if (is_utf8(bytes)) {
      if (!bytes.empty()) made.push_back(bytes);
    } else {
      made.insert(made.end(), bytes.size(), "\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    const int byte = byte_of(token);
    if (byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    put();
    made.push_back(token);
  }
  put();
  return made;
}

// `token` without up to `start` of a letter in front and up to `stop` behind.
std::string stripped(const std::string& token, const std::string& letter, int64_t start,
                     int64_t stop) {
  std::string_view rest = token;
  const auto begins = [&] { return rest.substr(0, letter.size()) == letter; };
  for (int64_t i = 0; i < start && begins(); ++i) rest.remove_prefix(letter.size());
  const auto ends = [&] {
    return rest.size() >= letter.size() && rest.substr(rest.size() - letter.size()) == letter;
  };
  for (int64_t i = 0; i < stop && ends(); ++i) rest.remove_suffix(letter.size());
  return std::string(rest);
}

std::unique_ptr<Decoder> read_strip(Part* part) {
  std::string letter;
  append(part->letter("content"), &letter);
  const int64_t start = part->at("start").integer(), stop = part->at("stop").integer();
  part->done();
  if (std::min(start, stop) < 0) part->refuse("a negative number of letters");
  return of_each([=](std::string* token, bool) { *token = stripped(*token, letter, start, stop); });
}

std::unique_ptr<Decoder> read_sequence(Part* part) {
  auto parts = std::make_shared<std::vector<std::unique_ptr<Decoder>>>();
  for (const Field& each : part->at("decoders").list()) {
    parts->push_back(read_decoder(each, part->where()));
  }
  part->done();
  return of([parts](Texts tokens) {
    for (const auto& each : *parts) tokens = each->decode(std::move(tokens));
    return tokens;
  });
}

std::unique_ptr<Decoder> read_word_piece(Part* part) {
  const std::string prefix = part->at("prefix").text();
  const bool cleanup = part->at("cleanup").boolean();
  part->done();
  return of_each([=](std::string* token, bool first) {
    if (!first) {
      const bool goes_on = token->compare(0, prefix.size(), prefix) == 0;
      *token = goes_on ? token->substr(prefix.size()) : " " + *token;
    }
    if (cleanup) *token = cleaned(*token);
  });
}

std::unique_ptr<Decoder> read_bpe(Part* part) {
  const std::string suffix = part->at("suffix").text();
  part->done();
  if (suffix.empty()) part->unsupported("has an empty suffix");
  return of([suffix](Texts tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = replaced(tokens[i], suffix, i + 1 == tokens.size() ? "" : " ");
    }
    return tokens;
  });
}

std::unique_ptr<Decoder> read_ctc(Part* part) {
  const std::string pad = part->at("pad_token").text();
  const std::string space = part->at("word_delimiter_token").text();
  const bool cleanup = part->at("cleanup").boolean();
  part->done();
  if (pad.empty() || space.empty()) part->unsupported("has an empty token");
  return of([=](Texts tokens) {
    tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
    Texts made;
    for (const std::string& token : tokens) {
      std::string text = replaced(token, pad, "");
      if (cleanup) text = replaced(cleaned(text), space, " ");
      if (!text.empty()) made.push_back(std::move(text));
    }
    return made;
  });
}

}  // namespace

std::unique_ptr<Decoder> read_decoder(const Field& value, const std::string& where) {
  Part part(value, "a decoder", where);
  const std::string& type = part.type();
  if (type == "Sequence") return read_sequence(&part);
  if (type == "Strip") return read_strip(&part);
  if (type == "WordPiece") return read_word_piece(&part);
  if (type == "BPEDecoder") return read_bpe(&part);
  if (type == "CTC") return read_ctc(&part);
  if (type == "Replace") {
    const Replacement replacement = Replacement::read(&part);
    return of_each([replacement](std::string* token, bool) { *token = replacement.of(*token); });
  }
  if (type == "Metaspace") {
    const Metaspace metaspace = Metaspace::read(&part);
    return of_each([metaspace](std::string* token, bool first) {
      *token = metaspace.restored(*token, first);
    });
  }
  if (type == "ByteLevel") {
    for (const char* name : {"add_prefix_space", "trim_offsets", "use_regex"}) {
      part.boolean(name, true);
    }
    part.done();
    return of(from_byte_level);
  }
  part.done();
  if (type == "ByteFallback") return of(from_bytes);
  if (type == "Fuse") {
    return of([](const Texts& tokens) {
      std::string all;
      for (const std::string& token : tokens) all += token;
      return Texts{all};
    });
  }
  part.unknown();
}

}  // namespace moe::runtime
