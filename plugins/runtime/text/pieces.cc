#include "text/pieces.h"

namespace moe::runtime {

namespace {

// What a tokenizer decodes bytes to that are not a whole letter yet.
constexpr std::string_view kHalfLetter = "\xEF\xBF\xBD";

bool ends(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

}  // namespace

std::string Pieces::push(int64_t token) {
  heard_.push_back(token);
  std::string text = tokenizer_.decode(heard_, true);
  if (text.size() <= said_.size() || text.compare(0, said_.size(), said_) != 0 ||
      ends(text, kHalfLetter)) {
    return "";
  }
  std::string piece = text.substr(said_.size());
  said_ = std::move(text);
  return piece;
}

std::string Pieces::finish() {
  const std::string text = tokenizer_.decode(heard_, true);
  return text.size() > said_.size() ? text.substr(said_.size()) : "";
}

}  // namespace moe::runtime
