#include "generate/cached.h"

#include <algorithm>

#include "core/words.h"

namespace moe::runtime {

namespace {

constexpr const char* kDialogue = "dialogue.json";
constexpr const char* kTokenizer = "tokenizer.json";

Asking asking_of(const Bundle& bundle) {
  const std::string dialogue = asset_of(bundle, kDialogue);
  const std::string content = asset_of(bundle, kTokenizer);
  Tokenizer tokenizer = Tokenizer::from_json(content, bundle.path() + "/" + kTokenizer);
  return Asking(dialogue, std::move(tokenizer), bundle.path() + "/" + kDialogue);
}

SessionOptions options_of(const char* component, const GeneratorOptions& options) {
  SessionOptions made;
  made.component = component;
  made.threads = options.threads;
  made.libraries = options.libraries;
  return made;
}

// What `embed` takes beside text where there is no image: no rows along the axes that vary.
std::map<std::string, Array> no_rows(const Session& embed) {
  std::map<std::string, Array> made;
  for (const TensorInfo& info : embed.inputs()) {
    if (info.name == "input_ids") continue;
    std::vector<int64_t> shape;
    for (const Dimension& dim : info.shape) shape.push_back(dim.size.value_or(0));
    const auto dtype = dtype_named(info.dtype);
    if (!dtype) throw Error(Kind::unsupported, "embed takes " + info.words());
    made.emplace(info.name, Array::of(*dtype, shape));
  }
  return made;
}

int64_t highest(const Array& positions) {
  const int64_t* first = positions.as<int64_t>();
  return *std::max_element(first, first + elements_of(positions.shape));
}

// [.., 1, S] from a token on.
Array behind(const Array& positions, int64_t known) {
  std::vector<int64_t> shape = positions.shape, begin(shape.size(), 0);
  shape.back() -= known;
  begin.back() = known;
  Array made = Array::of(positions.dtype, shape);
  const std::vector<int64_t> at(shape.size(), 0);
  copy_block(View::of(made), at, View::of(positions), begin, shape);
  return made;
}

}  // namespace

// One text, whose cache is left for the next.
class Alone : public Decoding {
 public:
  Alone(Cached* speaker, Ready prompt) : speaker_(speaker), prompt_(std::move(prompt)) {}
  ~Alone() override {
    if (begun_) speaker_->prefixes_.leave(std::move(begun_->cache), std::move(begun_->keys));
  }

  Logits logits(const Stop* stop) override {
    if (!begun_) {
      begun_ = speaker_->run_prompt(prompt_, stop);
      return begun_->logits;
    }
    const Logits made =
        speaker_->step(begun_->cache.get(), {begun_->keys.back().token}, speaker_->no_features_,
                       speaker_->positions_of({begun_->following}), stop);
    ++begun_->following;
    return made;
  }

  void follow(const std::vector<size_t>&, const std::vector<int64_t>& tokens) override {
    for (const int64_t token : tokens) begun_->keys.push_back({token, nullptr});
  }

  size_t reused(size_t) const override { return begun_ ? begun_->reused : 0; }

 private:
  Cached* speaker_;
  Ready prompt_;
  std::optional<Cached::Begun> begun_;
};

// Several texts behind one cache.
//
// Each prompt runs alone, so that its first token is what it would be alone.  The caches are joined then,
// shorter ones with padding in front, and the next tokens of all rows are one run.
class Together : public Decoding {
 public:
  Together(Cached* speaker, std::vector<Ready> prompts)
      : speaker_(speaker), prompts_(std::move(prompts)) {}

  Logits logits(const Stop* stop) override {
    if (cache_ == nullptr) return run_prompts(stop);
    const Logits made = speaker_->step(cache_.get(), tokens_, speaker_->no_features_,
                                       speaker_->positions_of(following_), stop);
    for (int64_t& position : following_) ++position;
    return made;
  }

  void follow(const std::vector<size_t>& rows, const std::vector<int64_t>& tokens) override {
    if (rows.size() < following_.size()) {
      cache_->keep(rows);
      std::vector<int64_t> kept;
      for (const size_t row : rows) kept.push_back(following_[row]);
      following_ = std::move(kept);
    }
    tokens_ = tokens;
  }

  size_t reused(size_t row) const override { return row < reused_.size() ? reused_[row] : 0; }

 private:
  Logits run_prompts(const Stop* stop) {
    std::vector<std::unique_ptr<Cache>> copies;
    std::vector<const Cache*> each;
    for (const Ready& prompt : prompts_) {
      Cached::Begun begun = speaker_->run_prompt(prompt, stop);
      const float* row = begun.logits.row(0);
      first_.insert(first_.end(), row, row + begun.logits.vocabulary);
      following_.push_back(begun.following);
      reused_.push_back(begun.reused);
      // The next prompt may go on in the cache of this one.
      copies.push_back(Cache::joined(speaker_->decoder_, {begun.cache.get()}, 0));
      each.push_back(copies.back().get());
      speaker_->prefixes_.leave(std::move(begun.cache), std::move(begun.keys));
    }
    cache_ = Cache::joined(speaker_->decoder_, each, speaker_->max_cache_tokens_);
    const size_t vocabulary = first_.size() / prompts_.size();
    return {first_.data(), vocabulary, vocabulary};
  }

  Cached* speaker_;
  std::vector<Ready> prompts_;
  std::unique_ptr<Cache> cache_;
  std::vector<float> first_;
  std::vector<int64_t> tokens_, following_;
  std::vector<size_t> reused_;
};

Cached::Cached(std::shared_ptr<const Bundle> bundle, const GeneratorOptions& options)
    : bundle_(std::move(bundle)),
      asking_(asking_of(*bundle_)),
      embed_(bundle_, options_of("embed", options)),
      decoder_(bundle_, options_of("decoder", options)),
      no_features_(no_rows(embed_)),
      prefixes_(options.reuse_prefix),
      max_cache_tokens_(options.max_cache_tokens) {
  if (max_cache_tokens_ < 0) {
    throw Error(Kind::usage, "a cache holds 1 token or more, not " + std::to_string(max_cache_tokens_));
  }
  require_outputs(decoder_);
  const Dialogue& dialogue = asking_.dialogue();
  ends.insert(dialogue.eos_token_ids.begin(), dialogue.eos_token_ids.end());
  max_new_tokens = dialogue.max_new_tokens;
  max_length = dialogue.max_length;
  if (dialogue.images() != nullptr) {
    vision_.emplace(bundle_, options_of("vision", options));
    features_ = std::make_unique<Features>(*vision_, embed_, options.max_image_bytes);
  }
}

int64_t Cached::image_token() const {
  const ImageRecipe* recipe = asking_.dialogue().images();
  return recipe != nullptr ? recipe->token_id : -1;
}

Ready Cached::ready(const Asked& asked) const {
  const Dialogue& dialogue = asking_.dialogue();
  if (!asked.images.empty() && dialogue.images() == nullptr &&
      bundle_->manifest().components.count("vision") != 0) {
    throw Error(Kind::unsupported,
                "images are not made ready as this model takes them: " +
                    printable(dialogue.no_images.value_or("the bundle does not say how")),
                bundle_->path(), "run its vision, embed and decoder on arrays");
  }
  Ready made;
  for (const Image& image : asked.images) made.pictures.push_back(Picture::of(asking_.see(image)));
  std::vector<const Seen*> seen;
  for (const auto& picture : made.pictures) seen.push_back(&picture->seen);
  if (asked.is_ids) {
    made.ids = asked.ids;
    check_places(made.ids, made.pictures);
  } else {
    made.ids = asking_.encode(asked.prompt, seen);
  }
  const auto tokens = static_cast<int64_t>(made.ids.size());
  if (max_cache_tokens_ > 0 && tokens > max_cache_tokens_) {
    throw Error(Kind::memory,
                "the cache is full: it may hold " + std::to_string(max_cache_tokens_) +
                    " tokens, the prompt has " + std::to_string(tokens),
                "", kRoomHint);
  }
  return made;
}

// Refuses ids that no prompt could be, or that hold the image's token for anything but the features of
// the pictures.
void Cached::check_places(const std::vector<int64_t>& ids, const Pictures& pictures) const {
  if (ids.empty()) throw Error(Kind::usage, "the prompt holds no token", "", "ask something");
  const Dialogue& dialogue = asking_.dialogue();
  if (static_cast<int64_t>(ids.size()) >= dialogue.max_length) {
    throw Error(Kind::usage,
                "the prompt has " + std::to_string(ids.size()) +
                    " tokens; with one for the answer the model takes " +
                    std::to_string(dialogue.max_length),
                "", "ask something shorter, or show a smaller image");
  }
  if (dialogue.images() == nullptr) return;
  std::vector<size_t> places;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] == image_token()) places.push_back(i);
  }
  size_t place = 0;
  for (const auto& picture : pictures) {
    const auto features = static_cast<size_t>(picture->seen.features);
    const size_t end = place + features;
    const bool together = dialogue.positions == Dialogue::Positions::plain || features == 0 ||
                          end > places.size() || places[end - 1] - places[place] == features - 1;
    if (!together) throw Error(Kind::usage, "something stands between the features of an image");
    place = end;
  }
  if (place != places.size()) {
    throw Error(Kind::usage,
                "the prompt holds " + in_quotes(dialogue.images()->token) +
                    ", which stands for a part of an image",
                "", "ask in other words; images stand in front of them");
  }
}

std::unique_ptr<Decoding> Cached::begin(std::vector<Ready> prompts) {
  if (prompts.size() == 1) return std::make_unique<Alone>(this, std::move(prompts.front()));
  return std::make_unique<Together>(this, std::move(prompts));
}

Cached::Begun Cached::run_prompt(const Ready& prompt, const Stop* stop) {
  std::vector<std::pair<std::shared_ptr<const std::string>, int64_t>> images;
  std::vector<const Seen*> seen;
  for (const auto& picture : prompt.pictures) {
    images.emplace_back(picture->digest, picture->seen.features);
    seen.push_back(&picture->seen);
  }
  Text text = Text::of(prompt.ids, image_token(), images);
  std::unique_ptr<Cache> cache = prefixes_.take(text);
  if (cache == nullptr) cache = std::make_unique<Cache>(decoder_, 1, max_cache_tokens_);
  const int64_t known = cache->length();
  try {
    Pictures unknown;
    for (size_t i = 0; i < text.spans.size(); ++i) {
      if (static_cast<int64_t>(text.spans[i].first) >= known) unknown.push_back(prompt.pictures[i]);
    }
    const Array positions = asking_.positions(prompt.ids, seen);
    const bool sees = features_ != nullptr && !unknown.empty();
    const std::map<std::string, Array> features =
        sees ? features_->of(unknown, stop) : no_features_;
    const std::vector<int64_t> ids(prompt.ids.begin() + known, prompt.ids.end());
    const Logits logits = step(cache.get(), ids, features, behind(positions, known), stop);
    return {std::move(cache), std::move(text.keys), logits, highest(positions) + 1,
            static_cast<size_t>(known)};
  } catch (...) {
    prefixes_.leave(std::move(cache), std::move(text.keys));  // it holds what it held
    throw;
  }
}

Logits Cached::step(Cache* cache, const std::vector<int64_t>& ids,
                    const std::map<std::string, Array>& features, const Array& positions,
                    const Stop* stop) const {
  const int64_t count = static_cast<int64_t>(ids.size()) / cache->batch();
  auto* numbers = const_cast<int64_t*>(ids.data());  // read alone
  std::vector<Named> given = {{"input_ids",
                               {DType::int64, {cache->batch(), count}, numbers,
                                ids.size() * sizeof(int64_t)}}};
  for (const auto& [name, array] : features) given.push_back({name, View::of(array)});
  const std::vector<Tensor> embedded = embed_.run(given, {}, stop);
  std::vector<Named> inputs;
  for (size_t i = 0; i < embedded.size(); ++i) {
    inputs.push_back({embed_.outputs()[i].name, embedded[i].view()});
  }
  inputs.push_back({"position_ids", View::of(positions)});
  return cache->run(std::move(inputs), count, stop);
}

Array Cached::positions_of(const std::vector<int64_t>& each) const {
  const int64_t axes = asking_.dialogue().positions == Dialogue::Positions::mrope ? 3 : 1;
  const auto texts = static_cast<int64_t>(each.size());
  Array made = axes == 1 ? Array::of(DType::int64, {texts, 1}) : Array::of(DType::int64, {axes, texts, 1});
  for (int64_t axis = 0; axis < axes; ++axis) {
    std::copy(each.begin(), each.end(), made.as<int64_t>() + axis * texts);
  }
  return made;
}

}  // namespace moe::runtime
