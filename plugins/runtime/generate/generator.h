// Prompts and images in, answers out, one alone or several together.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_GENERATOR_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_GENERATOR_H_

#include <functional>

#include "generate/speaker.h"
#include "generate/speech.h"

namespace moe::runtime {

// Hears a token and the text that it lets be said; false ends the answer.
using Listener = std::function<bool(int64_t token, const std::string& text)>;

struct Request {
  Asked asked;
  Options options;
  Listener listener;           // or none
  const Stop* stop = nullptr;  // or none
};

struct Answer {
  std::vector<int64_t> ids;
  std::string text;
  Finish finish = Finish::none;
  size_t prompt_tokens = 0, reused_tokens = 0;
};

// Threads may share it.
class Generator {
 public:
  // Raises what opening a bundle's sessions, its tokenizer and its dialogue raise.
  Generator(std::shared_ptr<const Bundle> bundle, const GeneratorOptions& options);

  // An answer to each request, `batch_size` of them side by side.  All are checked before any runs.
  std::vector<Answer> answer(const std::vector<Request>& requests, size_t batch_size);

  const Tokenizer& tokenizer() const { return speaker_->tokenizer(); }

 private:
  std::vector<Answer> together(const Request* requests, std::vector<Ready> ready);

  std::unique_ptr<Speaker> speaker_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_GENERATOR_H_
