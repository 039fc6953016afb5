#include "generate/prefix.h"

#include <algorithm>

#include "core/error.h"

namespace moe::runtime {

Text Text::of(const std::vector<int64_t>& ids, int64_t image_token,
              const std::vector<std::pair<std::shared_ptr<const std::string>, int64_t>>& images) {
  Text made;
  for (const int64_t id : ids) made.keys.push_back({id, nullptr});
  size_t place = 0;
  for (const auto& [digest, features] : images) {
    size_t begin = ids.size(), end = 0;
    for (int64_t i = 0; i < features; ++i, ++place) {
      while (place < ids.size() && ids[place] != image_token) ++place;
      if (place == ids.size()) throw Error(Kind::internal, "an image has no place in its prompt");
      begin = std::min(begin, place);
      end = place + 1;
      made.keys[place].image = digest;
    }
    made.spans.emplace_back(begin, end);
  }
  return made;
}

size_t Text::shared_with(const std::vector<Key>& held) const {
  const size_t most = std::min(keys.size() - 1, held.size());
  size_t length = 0;
  while (length < most && keys[length] == held[length]) ++length;
  for (const auto& [begin, end] : spans) {
    if (begin < length && length < end) return begin;
  }
  return length;
}

std::unique_ptr<Cache> Prefixes::take(const Text& text) {
  std::unique_ptr<Cache> cache;
  size_t shared = 0;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (cache_ == nullptr) return nullptr;
    shared = text.shared_with(keys_);
    if (shared == 0 || (shared != keys_.size() && !cache_->can_be_cut())) return nullptr;
    cache = std::move(cache_);
  }
  cache->cut(static_cast<int64_t>(shared));
  return cache;
}

void Prefixes::leave(std::unique_ptr<Cache> cache, std::vector<Key> keys) {
  if (!keeps_ || cache == nullptr || cache->length() == 0 || cache->is_of_one_prompt()) return;
  keys.resize(std::min(keys.size(), static_cast<size_t>(cache->length())));
  const std::lock_guard<std::mutex> lock(mutex_);
  cache_.swap(cache);  // the earlier one is freed behind the lock
  keys_ = std::move(keys);
}

}  // namespace moe::runtime
