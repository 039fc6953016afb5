// One answer as it comes about: its tokens, its text, and why it ends.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SPEECH_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SPEECH_H_

#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "generate/cache.h"
#include "generate/options.h"
#include "generate/stopping.h"
#include "text/pieces.h"

namespace moe::runtime {

// Numbered as the C interface numbers them.
enum class Finish { none = 0, stop = 1, stop_string = 2, length = 3, cancelled = 4 };

class Speech {
 public:
  // `limit` is the most tokens that it may have; `ends` outlives it.
  Speech(const Tokenizer& tokenizer, Options options, const std::vector<int64_t>& prompt,
         int64_t limit, const std::set<int64_t>& ends);

  struct Said {
    int64_t token;     // -1 for one that ends an answer
    std::string text;  // what can be said now, or nothing
  };
  // Chooses the next token by its logits.
  Said take(const float* logits, size_t vocabulary);
  // Ends it here, with the text that was said, unless it has ended.
  void cancel();

  Finish finish() const { return finish_; }
  const std::vector<int64_t>& ids() const { return ids_; }
  const std::string& text() const { return text_; }

 private:
  std::string rest(Finish reason);

  Options options_;
  int64_t limit_;
  const std::set<int64_t>* ends_;
  Pieces pieces_;
  StopStrings stops_;
  std::unordered_set<int64_t> said_;
  std::vector<int64_t> ids_;
  std::string text_;
  Finish finish_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SPEECH_H_
