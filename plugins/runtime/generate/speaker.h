// What a generator needs of a bundle, of one graph or of several: the next logits of some texts.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SPEAKER_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SPEAKER_H_

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "generate/cache.h"
#include "generate/features.h"
#include "image/image.h"
#include "text/tokenizer.h"

namespace moe::runtime {

// What is asked: words, or the ids of a whole prompt, which are taken as they are.
struct Asked {
  std::string prompt;
  std::vector<int64_t> ids;
  bool is_ids = false;
  std::vector<Image> images;
};

// A prompt and its images, checked and made ready to run.
struct Ready {
  std::vector<int64_t> ids;
  Pictures pictures;            // where vision is a graph of its own
  std::vector<Array> prepared;  // where it is not
};

// Texts under way side by side, a row each.
class Decoding {
 public:
  virtual ~Decoding() = default;
  // What each row leads to expect; valid until the next call.  Runs what was not run yet.
  virtual Logits logits(const Stop* stop) = 0;
  // Goes on with these of the rows alone, each with its next token.
  virtual void follow(const std::vector<size_t>& rows, const std::vector<int64_t>& tokens) = 0;
  // Tokens of a row's prompt that were found in a cache.
  virtual size_t reused(size_t row) const = 0;
};

// A bundle that goes on from prompts.  Threads may share it.
class Speaker {
 public:
  virtual ~Speaker() = default;
  // A request made ready, before anything runs.  Raises Error(usage) for one that the model cannot be
  // asked, Error(memory) for one that has no room.
  virtual Ready ready(const Asked& asked) const = 0;
  // Texts that begin with these prompts; nothing runs yet.
  virtual std::unique_ptr<Decoding> begin(std::vector<Ready> prompts) = 0;

  virtual const Tokenizer& tokenizer() const = 0;
  std::set<int64_t> ends;      // the tokens that end an answer
  int64_t max_new_tokens = 0;  // of an answer, where nobody asks for another number
  int64_t max_length = 0;      // of prompt and answer together
};

// What every generator is told, however its bundle is made.
struct GeneratorOptions {
  int threads = 0;
  Libraries libraries;
  int64_t max_cache_tokens = 0;         // 0: no limit
  size_t max_image_bytes = 1u << 28;    // of features that are kept
  bool reuse_prefix = true;
};

// A file that text needs; Error(usage) where the bundle has none.
std::string asset_of(const Bundle& bundle, const char* name);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_SPEAKER_H_
