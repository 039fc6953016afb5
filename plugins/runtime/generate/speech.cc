#include "generate/speech.h"

#include "generate/sampling.h"

namespace moe::runtime {

Speech::Speech(const Tokenizer& tokenizer, Options options, const std::vector<int64_t>& prompt,
               int64_t limit, const std::set<int64_t>& ends)
    : options_(std::move(options)),
      limit_(limit),
      ends_(&ends),
      pieces_(tokenizer),
      stops_(options_.stop),
      said_(prompt.begin(), prompt.end()),
      finish_(limit > 0 ? Finish::none : Finish::length) {}

Speech::Said Speech::take(const float* logits, size_t vocabulary) {
  const int64_t token = next_token(logits, vocabulary, options_, said_, ids_.size());
  Said made{-1, ""};
  if (ends_->count(token) != 0) {
    made.text = rest(Finish::stop);
  } else {
    made.token = token;
    ids_.push_back(token);
    said_.insert(token);
    made.text = stops_.push(pieces_.push(token));
    if (stops_.found()) {
      finish_ = Finish::stop_string;
    } else if (static_cast<int64_t>(ids_.size()) == limit_) {
      made.text += rest(Finish::length);
    }
  }
  text_ += made.text;
  return made;
}

void Speech::cancel() {
  if (finish_ == Finish::none) finish_ = Finish::cancelled;
}

std::string Speech::rest(Finish reason) {
  finish_ = reason;
  std::string text = stops_.push(pieces_.finish());
  if (stops_.found()) {
    finish_ = Finish::stop_string;
    return text;
  }
  return text + stops_.finish();
}

}  // namespace moe::runtime
