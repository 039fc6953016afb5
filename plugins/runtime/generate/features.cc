#include "generate/features.h"

#include <algorithm>

#include "core/sha256.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

constexpr const char* kEmbeds = "image_embeds";

// The only axis that varies.
size_t features_axis(const TensorInfo& info, const std::string& where) {
  size_t found = info.shape.size(), count = 0;
  for (size_t axis = 0; axis < info.shape.size(); ++axis) {
    if (info.shape[axis].size) continue;
    found = axis;
    ++count;
  }
  if (count != 1) {
    throw Error(Kind::unsafe, "features that are not counted along one axis: " + info.words(),
                where);
  }
  return found;
}

}  // namespace

std::shared_ptr<const Picture> Picture::of(Seen seen) {
  Sha256 made;
  for (const auto& [name, array] : seen.inputs) {
    const std::string head =
        name + " " + name_of(array.dtype) + " " + words_of(array.shape) + ";";
    made.update(head.data(), head.size()).update(array.data.data(), array.data.size());
  }
  made.update(seen.grid.data(), sizeof seen.grid);
  auto digest = std::make_shared<const std::string>(made.digest());
  return std::make_shared<const Picture>(Picture{std::move(seen), std::move(digest)});
}

Features::Features(const Session& vision, const Session& embed, size_t max_bytes)
    : vision_(&vision), max_bytes_(max_bytes) {
  const std::string& where = vision.bundle().path();
  bool whole = true, embeds = false;
  for (const TensorInfo& info : embed.inputs()) {
    if (info.name == "input_ids") continue;
    if (info.name == kEmbeds) embeds = true, embeds_ = names_.size();
    names_.push_back(info.name);
    axes_.push_back(features_axis(info, where));
    whole = whole && std::any_of(vision.outputs().begin(), vision.outputs().end(),
                                 [&](const TensorInfo& made) { return made.name == info.name; });
  }
  if (!whole || !embeds) throw Error(Kind::unsafe, "vision does not give what embed takes", where);
}

std::map<std::string, Array> Features::of(const Pictures& images, const Stop* stop) {
  std::vector<std::shared_ptr<const std::vector<Tensor>>> each;
  for (const auto& image : images) each.push_back(one(*image, stop));
  std::map<std::string, Array> made;
  for (size_t i = 0; i < names_.size(); ++i) {
    const size_t axis = axes_[i];
    std::vector<int64_t> shape = (*each.front())[i].shape();
    shape[axis] = 0;
    for (const auto& tensors : each) shape[axis] += (*tensors)[i].shape()[axis];
    Array whole = Array::of((*each.front())[i].dtype(), shape);
    std::vector<int64_t> at(shape.size(), 0);
    const std::vector<int64_t> begin(shape.size(), 0);
    for (const auto& tensors : each) {
      const View& part = (*tensors)[i].view();
      copy_block(View::of(whole), at, part, begin, part.shape);
      at[axis] += part.shape[axis];
    }
    made.emplace(names_[i], std::move(whole));
  }
  return made;
}

std::shared_ptr<const std::vector<Tensor>> Features::one(const Picture& image, const Stop* stop) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto each = kept_.begin(); each != kept_.end(); ++each) {
      if (each->digest != *image.digest) continue;
      kept_.splice(kept_.begin(), kept_, each);
      return each->made;
    }
  }
  std::vector<Named> inputs;
  const std::map<std::string, Array> prepared = side_by_side({&image.seen});
  for (const auto& [name, array] : prepared) inputs.push_back({name, View::of(array)});
  auto made =
      std::make_shared<const std::vector<Tensor>>(vision_->run(inputs, names_, stop));
  size_t bytes = 0;
  for (const Tensor& tensor : *made) bytes += tensor.bytes();
  for (size_t i = 0; i < made->size(); ++i) {
    if ((*made)[i].shape().size() <= axes_[i]) {
      throw Error(Kind::unsafe, "vision does not give what embed takes", vision_->bundle().path());
    }
  }
  const int64_t rows = (*made)[embeds_].shape()[axes_[embeds_]];
  if (rows != image.seen.features) {
    throw Error(Kind::unsafe,
                "vision makes " + std::to_string(rows) + " features of an image, and its text holds " +
                    std::to_string(image.seen.features),
                vision_->bundle().path());
  }
  keep({*image.digest, made, bytes});
  return made;
}

void Features::keep(Kept made) {
  if (made.bytes > max_bytes_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Kept& each : kept_) {
    if (each.digest == made.digest) return;
  }
  bytes_ += made.bytes;
  kept_.push_front(std::move(made));
  while (bytes_ > max_bytes_) {
    bytes_ -= kept_.back().bytes;
    kept_.pop_back();
  }
}

}  // namespace moe::runtime
