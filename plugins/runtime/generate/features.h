// Features of images that were seen before, so that the same one is not looked at twice; the twin of
// moe_export/runtime/features.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_FEATURES_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_FEATURES_H_

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "image/seen.h"
#include "session/session.h"

namespace moe::runtime {

// An image made ready, and SHA-256 of all that a model hears of it.
struct Picture {
  Seen seen;
  std::shared_ptr<const std::string> digest;
  static std::shared_ptr<const Picture> of(Seen seen);
};
using Pictures = std::vector<std::shared_ptr<const Picture>>;

// What `vision` makes of images, one by one; the latest bytes of it are kept.
//
// An image is looked at alone, so that its features are the same to the bit whatever images stand beside
// it.  Threads may share it; two that ask for a new image at once both look.
class Features {
 public:
  // Raises Error(unsafe) where vision does not give what embed takes.
  Features(const Session& vision, const Session& embed, size_t max_bytes);

  // The features of one image or more, behind one another, by the names that embed takes.  Raises
  // Error(unsafe) where there are more or fewer than an image says.
  std::map<std::string, Array> of(const Pictures& images, const Stop* stop);

 private:
  struct Kept {
    std::string digest;
    std::shared_ptr<const std::vector<Tensor>> made;
    size_t bytes;
  };
  std::shared_ptr<const std::vector<Tensor>> one(const Picture& image, const Stop* stop);
  void keep(Kept made);

  const Session* vision_;
  size_t max_bytes_;
  std::vector<std::string> names_;
  std::vector<size_t> axes_;  // along which each counts features
  size_t embeds_ = 0;         // which of them is image_embeds
  std::mutex mutex_;
  std::list<Kept> kept_;  // the latest first
  size_t bytes_ = 0;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_FEATURES_H_
