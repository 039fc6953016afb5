// A question as the components take it: its tokens, their positions, and images made ready.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_ASK_ASKING_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_ASK_ASKING_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ask/dialogue.h"
#include "core/array.h"
#include "image/seen.h"
#include "text/tokenizer.h"

namespace moe::runtime {

// How prompts for one model are made ready.  Nothing changes once it is made: any number of threads
// may ask.
class Asking {
 public:
  // `dialogue` is the text of dialogue.json and `where` its path, which errors name.  Raises
  // Error(unsafe) for one that cannot be read, or whose image token is not the tokenizer's.
  Asking(std::string_view dialogue, Tokenizer tokenizer, std::string where);

  // An image made ready.  Raises Error(usage) where the model takes none, Error(unsupported) where
  // the bundle does not say how, and what `patches_of` and `tiles_of` raise.
  Seen see(const Image& image) const;

  // The ids of a user's words as the model is asked, features of images in their places.  Raises
  // Error(usage) for a prompt without tokens, of too many, or that holds the image's token.
  std::vector<int64_t> encode(std::string_view prompt, const std::vector<const Seen*>& images) const;

  // [1, S], or [3, 1, S] for mrope.
  Array positions(const std::vector<int64_t>& ids, const std::vector<const Seen*>& images) const;

  // What `vision` takes; empty without images.
  std::map<std::string, Array> vision_inputs(const std::vector<const Seen*>& images) const;

  const Dialogue& dialogue() const { return dialogue_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  Dialogue dialogue_;
  Tokenizer tokenizer_;
  std::string where_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_ASK_ASKING_H_
