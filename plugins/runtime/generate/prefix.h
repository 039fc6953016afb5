// What prompts have in common, and the cache that one leaves behind for the next; the twin of
// moe_export/runtime/prefix.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_PREFIX_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_PREFIX_H_

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "generate/cache.h"

namespace moe::runtime {

// What a place of a text is: a token, or a feature of the image with this digest.
struct Key {
  int64_t token = 0;
  std::shared_ptr<const std::string> image;  // none for a token of text
  bool operator==(const Key& other) const {
    return token == other.token && (image == nullptr) == (other.image == nullptr) &&
           (image == other.image || image == nullptr || *image == *other.image);
  }
};

// A prompt as a cache may hold it.
struct Text {
  std::vector<Key> keys;
  // Where each image begins and ends: features see one another, so that none is cut.
  std::vector<std::pair<size_t, size_t>> spans;

  // Of a prompt's ids, whose `image_token` stands for so many features of each image.
  static Text of(const std::vector<int64_t>& ids, int64_t image_token,
                 const std::vector<std::pair<std::shared_ptr<const std::string>, int64_t>>& images);

  // How many tokens both begin with; at least one of this text's is not among them.
  size_t shared_with(const std::vector<Key>& held) const;
};

// The cache of the last answer, for the next one; whoever takes it has it alone.
class Prefixes {
 public:
  explicit Prefixes(bool keeps) : keeps_(keeps) {}

  // The cache that was left, cut back to what `text` begins with, if it has some of it.
  std::unique_ptr<Cache> take(const Text& text);
  // Leaves a cache, which holds a text of these keys, in the place of an earlier one.
  void leave(std::unique_ptr<Cache> cache, std::vector<Key> keys);

 private:
  const bool keeps_;
  std::mutex mutex_;
  std::unique_ptr<Cache> cache_;
  std::vector<Key> keys_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_PREFIX_H_
