// Answers of a bundle with a cache, one alone or several side by side; the twin of
// moe_export/runtime/cached.py and converse.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_CACHED_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_CACHED_H_

#include <optional>

#include "ask/asking.h"
#include "generate/prefix.h"
#include "generate/speaker.h"

namespace moe::runtime {

class Cached : public Speaker {
 public:
  Cached(std::shared_ptr<const Bundle> bundle, const GeneratorOptions& options);

  Ready ready(const Asked& asked) const override;
  std::unique_ptr<Decoding> begin(std::vector<Ready> prompts) override;
  const Tokenizer& tokenizer() const override { return asking_.tokenizer(); }

 private:
  friend class Alone;
  friend class Together;

  // A text whose prompt has run.
  struct Begun {
    std::unique_ptr<Cache> cache;
    std::vector<Key> keys;
    Logits logits;
    int64_t following;  // the position of the token that follows
    size_t reused;
  };
  Begun run_prompt(const Ready& prompt, const Stop* stop);
  // The logits behind `ids` [texts, count], which stand at `positions` [.., texts, count].
  Logits step(Cache* cache, const std::vector<int64_t>& ids,
              const std::map<std::string, Array>& features, const Array& positions,
              const Stop* stop) const;
  // The same position on all axes for each text: [.., texts, 1].
  Array positions_of(const std::vector<int64_t>& each) const;
  void check_places(const std::vector<int64_t>& ids, const Pictures& pictures) const;
  int64_t image_token() const;

  std::shared_ptr<const Bundle> bundle_;
  Asking asking_;
  Session embed_, decoder_;
  std::optional<Session> vision_;
  std::unique_ptr<Features> features_;
  std::map<std::string, Array> no_features_;
  Prefixes prefixes_;
  int64_t max_cache_tokens_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_CACHED_H_
