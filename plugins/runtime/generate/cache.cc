#include "generate/cache.h"

#include <algorithm>

#include "core/words.h"

namespace moe::runtime {

namespace {

// How the names of a cache begin, as it goes into a decoder and as it comes out.
const std::string kPast = "past_", kPresent = "present_";
constexpr const char* kLogits = "logits";
constexpr const char* kMask = "attention_mask";
// Axes by the names that the graph has for their sizes: tokens of a cache, texts, tokens of a run.
constexpr const char* kTokens = "past";
constexpr const char* kBatch = "batch";
constexpr const char* kRun = "sequence";

// Room for so many tokens behind a prompt, so that its answer need not begin with a copy of all caches.
constexpr int64_t kBehindTokens = 256;

bool is_past(const std::string& name) { return name.compare(0, kPast.size(), kPast) == 0; }
std::string present_of(const std::string& past) { return kPresent + past.substr(kPast.size()); }

int axis_of(const TensorInfo& info, const char* name) {
  for (size_t axis = 0; axis < info.shape.size(); ++axis) {
    if (info.shape[axis].name == name) return static_cast<int>(axis);
  }
  return -1;
}

const TensorInfo* find(const std::vector<TensorInfo>& infos, const std::string& name) {
  const auto found = std::find_if(infos.begin(), infos.end(),
                                  [&](const TensorInfo& info) { return info.name == name; });
  return found == infos.end() ? nullptr : &*found;
}

}  // namespace

void require_outputs(const Session& decoder) {
  std::vector<std::string> wanted = {kLogits};
  for (const TensorInfo& info : decoder.inputs()) {
    if (is_past(info.name)) wanted.push_back(present_of(info.name));
  }
  std::sort(wanted.begin(), wanted.end());
  for (const std::string& name : wanted) {
    if (find(decoder.outputs(), name) == nullptr) {
      throw Error(Kind::unsafe, "the decoder gives no " + in_quotes(name), decoder.bundle().path());
    }
  }
  if (find(decoder.outputs(), kLogits)->dtype != "float32") {
    throw Error(Kind::unsupported, "the decoder's logits are not float32", decoder.bundle().path());
  }
}

Cache::Cache(const Session& decoder, int64_t batch, int64_t max_tokens)
    : decoder_(&decoder),
      batch_(batch),
      max_tokens_(max_tokens),
      logits_info_(*find(decoder.outputs(), kLogits)) {
  const auto& in_place = decoder.record().in_place;
  for (const TensorInfo& info : decoder.inputs()) {
    if (!is_past(info.name)) continue;
    Past past{info, present_of(info.name), false, axis_of(info, kTokens), axis_of(info, kBatch), {}};
    const auto found = in_place.find(past.present);
    past.grows = found != in_place.end() && found->second == info.name;
    const auto tokens = std::count_if(info.shape.begin(), info.shape.end(),
                                      [](const Dimension& dim) { return dim.name == kTokens; });
    if (tokens > 1 || (past.grows && past.tokens_axis != 0)) {
      throw Error(Kind::unsafe, "a cache that does not count its tokens: " + info.words(),
                  decoder.bundle().path());
    }
    past.rows = zeros(info, 0, 0);
    pasts_.push_back(std::move(past));
  }
  logits_ = zeros(logits_info_, 0, 1);
}

bool Cache::can_be_cut() const {
  return std::all_of(pasts_.begin(), pasts_.end(),
                     [](const Past& past) { return past.tokens_axis >= 0; });
}

bool Cache::is_of_one_prompt() const {
  return std::any_of(pasts_.begin(), pasts_.end(), [](const Past& past) {
    return past.info.name.rfind("past_prompt_", 0) == 0;
  });
}

void Cache::cut(int64_t length) {
  if (length == length_) return;
  if (length < 0 || length > length_ || !can_be_cut()) {
    throw Error(Kind::internal, "a cache of " + std::to_string(length_) + " tokens cannot be cut to " +
                                    std::to_string(length));
  }
  for (Past& past : pasts_) {
    if (past.grows) continue;
    std::vector<int64_t> extent = past.rows.shape;
    extent[static_cast<size_t>(past.tokens_axis)] = length;
    Array shorter = Array::of(past.rows.dtype, extent);
    const std::vector<int64_t> begin(extent.size(), 0);
    copy_block(View::of(shorter), begin, View::of(past.rows), begin, extent);
    past.rows = std::move(shorter);
  }
  length_ = length;
}

std::unique_ptr<Cache> Cache::joined(const Session& decoder, const std::vector<const Cache*>& texts,
                                     int64_t max_tokens) {
  auto made = std::make_unique<Cache>(decoder, static_cast<int64_t>(texts.size()), max_tokens);
  int64_t longest = 0;
  for (const Cache* text : texts) longest = std::max(longest, text->length_);
  made->make_room(longest);
  for (size_t i = 0; i < made->pasts_.size(); ++i) {
    Past& past = made->pasts_[i];
    if (past.batch_axis < 0) {
      throw Error(Kind::unsupported, "a decoder of one text at a time: " + past.info.words());
    }
    if (!past.grows) past.rows = made->zeros(past.info, longest, 0);
    for (size_t row = 0; row < texts.size(); ++row) {
      const Past& from = texts[row]->pasts_[i];
      std::vector<int64_t> extent = from.rows.shape, at(extent.size(), 0), begin(extent.size(), 0);
      at[static_cast<size_t>(past.batch_axis)] = static_cast<int64_t>(row);
      if (past.tokens_axis >= 0) {
        extent[static_cast<size_t>(past.tokens_axis)] = texts[row]->length_;
        at[static_cast<size_t>(past.tokens_axis)] = longest - texts[row]->length_;
      }
      copy_block(View::of(past.rows), at, View::of(from.rows), begin, extent);
    }
  }
  made->length_ = longest;
  for (size_t row = 0; row < texts.size(); ++row) {
    const auto start = made->mask_.begin() + static_cast<int64_t>(row) * made->room_;
    std::fill(start, start + longest - texts[row]->length_, 0);
  }
  return made;
}

void Cache::keep(const std::vector<size_t>& rows) {
  int64_t padding = length_;
  for (const size_t row : rows) {
    const auto start = mask_.begin() + static_cast<int64_t>(row) * room_;
    padding = std::min(padding, std::find(start, start + length_, 1) - start);
  }
  const auto count = static_cast<int64_t>(rows.size());
  for (Past& past : pasts_) {
    std::vector<int64_t> shape = past.rows.shape;
    shape[static_cast<size_t>(past.batch_axis)] = count;
    std::vector<int64_t> begin(shape.size(), 0), at(shape.size(), 0);
    if (past.tokens_axis >= 0) {
      const auto axis = static_cast<size_t>(past.tokens_axis);
      shape[axis] = past.rows.shape[axis] - padding;
      begin[axis] = padding;
    }
    Array kept = Array::of(past.rows.dtype, shape);
    std::vector<int64_t> extent = shape;
    extent[static_cast<size_t>(past.batch_axis)] = 1;
    for (size_t i = 0; i < rows.size(); ++i) {
      at[static_cast<size_t>(past.batch_axis)] = static_cast<int64_t>(i);
      begin[static_cast<size_t>(past.batch_axis)] = static_cast<int64_t>(rows[i]);
      copy_block(View::of(kept), at, View::of(past.rows), begin, extent);
    }
    past.rows = std::move(kept);
  }
  std::vector<int64_t> mask;
  for (const size_t row : rows) {
    const auto start = mask_.begin() + static_cast<int64_t>(row) * room_;
    mask.insert(mask.end(), start + padding, start + room_);
  }
  mask_ = std::move(mask);
  batch_ = count;
  length_ -= padding;
  room_ -= padding;
  logits_ = zeros(logits_info_, 0, 1);
}

Logits Cache::run(std::vector<Named> inputs, int64_t count, const Stop* stop) {
  const int64_t after = length_ + count;
  make_room(after);
  for (int64_t row = 0; row < batch_; ++row) {
    const auto start = mask_.begin() + row * room_;
    std::fill(start + length_, start + after, 1);
  }
  given_mask_.clear();
  for (int64_t row = 0; row < batch_; ++row) {
    const auto start = mask_.begin() + row * room_;
    given_mask_.insert(given_mask_.end(), start, start + after);
  }
  inputs.push_back({kMask,
                    {DType::int64, {batch_, after}, given_mask_.data(),
                     given_mask_.size() * sizeof(int64_t)}});
  std::vector<Named> outputs;
  std::vector<Array> anew;
  anew.reserve(pasts_.size());
  for (Past& past : pasts_) {
    inputs.push_back({past.info.name, view(past, length_)});
    if (!past.grows) anew.push_back(zeros(past.info, after, 0));
    outputs.push_back({past.present, past.grows ? view(past, after) : View::of(anew.back())});
  }
  const int run_axis = axis_of(logits_info_, kRun);
  if (run_axis >= 0 && logits_.shape[static_cast<size_t>(run_axis)] != count) {
    logits_ = zeros(logits_info_, 0, count);
  }
  outputs.push_back({kLogits, View::of(logits_)});
  decoder_->run_into(inputs, outputs, stop);
  length_ = after;
  auto made = anew.begin();
  for (Past& past : pasts_) {
    if (!past.grows) past.rows = std::move(*made++);
  }
  const auto vocabulary = static_cast<size_t>(logits_.shape.back());
  const size_t tokens = logits_.shape.size() == 3 ? static_cast<size_t>(logits_.shape[1]) : 1;
  return {logits_.as<float>() + (tokens - 1) * vocabulary, vocabulary, tokens * vocabulary};
}

View Cache::view(Past& past, int64_t length) const {
  View made = View::of(past.rows);
  if (past.grows) {
    made.shape[0] = length;
    made.bytes = static_cast<size_t>(elements_of(made.shape)) * size_of(made.dtype);
  }
  return made;
}

void Cache::make_room(int64_t tokens) {
  if (max_tokens_ > 0 && tokens > max_tokens_) {
    throw Error(Kind::memory,
                "the cache is full: it may hold " + std::to_string(max_tokens_) +
                    " tokens, this run makes " + std::to_string(tokens),
                "", kRoomHint);
  }
  if (tokens <= room_) return;
  int64_t room = std::max(tokens, 2 * room_) + kBehindTokens;
  if (max_tokens_ > 0) room = std::min(room, max_tokens_);
  std::vector<Array> longer;
  for (Past& past : pasts_) {
    if (!past.grows) continue;
    longer.push_back(zeros(past.info, room, 0));
    const View from = view(past, length_);
    const std::vector<int64_t> begin(from.shape.size(), 0);
    copy_block(View::of(longer.back()), begin, from, begin, from.shape);
  }
  make_mask(room);
  // From here on nothing can fail.
  auto made = longer.begin();
  for (Past& past : pasts_) {
    if (past.grows) past.rows = std::move(*made++);
  }
  room_ = room;
}

void Cache::make_mask(int64_t room) {
  std::vector<int64_t> mask(static_cast<size_t>(batch_ * room), 1);
  for (int64_t row = 0; row < batch_; ++row) {
    const auto start = mask_.begin() + row * room_;
    std::copy(start, start + length_, mask.begin() + row * room);
  }
  mask_ = std::move(mask);
}

Array Cache::zeros(const TensorInfo& info, int64_t tokens, int64_t run) const {
  std::vector<int64_t> shape;
  for (const Dimension& dim : info.shape) {
    if (dim.size) {
      shape.push_back(*dim.size);
    } else if (dim.name == kBatch) {
      shape.push_back(batch_);
    } else if (dim.name == kTokens) {
      shape.push_back(tokens);
    } else if (dim.name == kRun) {
      shape.push_back(run);
    } else {
      throw Error(Kind::unsafe, "sizes that a cache does not know: " + info.words());
    }
  }
  const auto dtype = dtype_named(info.dtype);
  if (!dtype) throw Error(Kind::unsupported, "a cache of a dtype that nobody can hold: " + info.words());
  return Array::of(*dtype, std::move(shape));
}

}  // namespace moe::runtime
