#include "generate/one_graph.h"

#include <algorithm>

#include "core/words.h"

namespace moe::runtime {

namespace {

constexpr const char* kConfig = "generation_config.json";
constexpr const char* kPreprocessor = "preprocessor_config.json";
constexpr const char* kTokenizer = "tokenizer.json";

std::optional<ImagePreprocessor> preprocessor_of(const Bundle& bundle) {
  const auto content = bundle.asset(kPreprocessor);
  if (!content) return std::nullopt;
  return ImagePreprocessor::read(*content, bundle.path() + "/" + kPreprocessor);
}

SessionOptions options_of(const GeneratorOptions& options) {
  SessionOptions made;
  made.threads = options.threads;
  made.libraries = options.libraries;
  return made;
}

}  // namespace

// Rows padded on the right: a causal model's logits do not depend on what follows.
class Rerun : public Decoding {
 public:
  Rerun(OneGraph* model, std::vector<Ready> prompts) : model_(model), texts_(std::move(prompts)) {}

  Logits logits(const Stop* stop) override {
    size_t longest = 0;
    for (const Ready& text : texts_) longest = std::max(longest, text.ids.size());
    const auto rows = static_cast<int64_t>(texts_.size());
    Array tokens = Array::of(model_->token_dtype_, {rows, static_cast<int64_t>(longest)});
    for (size_t row = 0; row < texts_.size(); ++row) {
      for (size_t i = 0; i < longest; ++i) {
        const std::vector<int64_t>& ids = texts_[row].ids;
        put(&tokens, row * longest + i, i < ids.size() ? ids[i] : model_->config_.pad_token_id);
      }
    }
    std::vector<Named> inputs = {{model_->config_.text_input, View::of(tokens)}};
    Array images;
    if (model_->preprocessor_) {
      images = stacked();
      inputs.push_back({model_->preprocessor_->image_input, View::of(images)});
    }
    made_ = model_->session_.run(inputs, {model_->logits_}, stop);
    return last_of(made_.front(), longest);
  }

  void follow(const std::vector<size_t>& rows, const std::vector<int64_t>& tokens) override {
    std::vector<Ready> kept;
    for (size_t i = 0; i < rows.size(); ++i) {
      kept.push_back(std::move(texts_[rows[i]]));
      kept.back().ids.push_back(tokens[i]);
    }
    texts_ = std::move(kept);
  }

  size_t reused(size_t) const override { return 0; }

 private:
  static void put(Array* tokens, size_t place, int64_t id) {
    if (tokens->dtype == DType::int32) {
      tokens->as<int32_t>()[place] = static_cast<int32_t>(id);
    } else {
      tokens->as<int64_t>()[place] = id;
    }
  }

  // [rows, ..]: the image of each.
  Array stacked() const {
    const Array& one = texts_.front().prepared.front();
    std::vector<int64_t> shape = one.shape;
    shape.insert(shape.begin(), static_cast<int64_t>(texts_.size()));
    Array made = Array::of(one.dtype, shape);
    auto at = made.data.begin();
    for (const Ready& text : texts_) {
      const auto& data = text.prepared.front().data;
      at = std::copy(data.begin(), data.end(), at);
    }
    return made;
  }

  // The logits of the last token of each row, of [rows, longest, V].
  Logits last_of(const Tensor& logits, size_t longest) {
    const std::vector<int64_t>& shape = logits.shape();
    const bool known = logits.dtype() == DType::float32 && shape.size() == 3 &&
                       shape[0] == static_cast<int64_t>(texts_.size()) &&
                       shape[1] == static_cast<int64_t>(longest);
    if (!known) {
      throw Error(Kind::unsupported,
                  "the logits are no float32 of each token but " +
                      std::string(name_of(logits.dtype())) + " " + words_of(shape));
    }
    const auto vocabulary = static_cast<size_t>(shape[2]);
    const auto* numbers = static_cast<const float*>(logits.data());
    rows_.clear();
    for (size_t row = 0; row < texts_.size(); ++row) {
      const float* at = numbers + (row * longest + texts_[row].ids.size() - 1) * vocabulary;
      rows_.insert(rows_.end(), at, at + vocabulary);
    }
    return {rows_.data(), vocabulary, vocabulary};
  }

  OneGraph* model_;
  std::vector<Ready> texts_;
  std::vector<Tensor> made_;
  std::vector<float> rows_;
};

OneGraph::OneGraph(std::shared_ptr<const Bundle> bundle, const GeneratorOptions& options)
    : bundle_(std::move(bundle)),
      config_(GenerationConfig::read(asset_of(*bundle_, kConfig), bundle_->path() + "/" + kConfig)),
      preprocessor_(preprocessor_of(*bundle_)),
      tokenizer_(Tokenizer::from_json(asset_of(*bundle_, kTokenizer),
                                      bundle_->path() + "/" + kTokenizer)),
      session_(bundle_, options_of(options)) {
  if (options.max_cache_tokens != 0) {
    throw Error(Kind::usage, "the bundle answers without a cache", bundle_->path());
  }
  ends = {config_.eos_token_id};
  max_new_tokens = config_.max_new_tokens;
  max_length = config_.max_length;
  check_signature();
}

// Refuses a configuration that names other inputs or outputs than the graph has.
void OneGraph::check_signature() {
  const std::string where = bundle_->path() + "/" + kConfig;
  std::set<std::string> named = {config_.text_input}, taken;
  if (preprocessor_) named.insert(preprocessor_->image_input);
  for (const TensorInfo& info : session_.inputs()) taken.insert(info.name);
  if (named != taken) {
    const auto words = [](const std::set<std::string>& names) {
      std::vector<std::string> shown;
      for (const std::string& name : names) shown.push_back(printable(name));
      return listed(shown);
    };
    throw Error(Kind::unsupported,
                "the graph takes " + words(taken) + ", generation gives " + words(named), where);
  }
  logits_ = config_.logits_output.value_or(session_.outputs().front().name);
  const auto& outputs = session_.outputs();
  const bool given = std::any_of(outputs.begin(), outputs.end(),
                                 [&](const TensorInfo& info) { return info.name == logits_; });
  if (!given) {
    throw Error(Kind::unsafe, "logits_output " + in_quotes(logits_) + " is not an output of the graph",
                where);
  }
  for (const TensorInfo& info : session_.inputs()) {
    if (info.name != config_.text_input) continue;
    const auto dtype = dtype_named(info.dtype);
    if (dtype != DType::int64 && dtype != DType::int32) {
      throw Error(Kind::unsupported, "tokens are " + info.words() + ", not int64 or int32", where);
    }
    token_dtype_ = *dtype;
  }
}

Ready OneGraph::ready(const Asked& asked) const {
  Ready made;
  made.ids = asked.is_ids ? asked.ids : config_.encode(asked.prompt, tokenizer_);
  if (made.ids.empty()) throw Error(Kind::usage, "the prompt holds no token", "", "ask something");
  if (static_cast<int64_t>(made.ids.size()) >= max_length) {
    throw Error(Kind::usage,
                "the prompt has " + std::to_string(made.ids.size()) +
                    " tokens; with one for the answer the model takes " + std::to_string(max_length),
                "", "ask something shorter");
  }
  if (!preprocessor_) {
    if (!asked.images.empty()) {
      throw Error(Kind::usage, "the model takes no image", bundle_->path());
    }
    return made;
  }
  if (asked.images.empty()) {
    throw Error(Kind::usage, "the model needs an image", "", "give one with the prompt");
  }
  if (asked.images.size() > 1) {
    throw Error(Kind::usage, "the model takes one image", bundle_->path());
  }
  made.prepared.push_back(preprocessor_->prepare(asked.images.front()));
  return made;
}

std::unique_ptr<Decoding> OneGraph::begin(std::vector<Ready> prompts) {
  return std::make_unique<Rerun>(this, std::move(prompts));
}

}  // namespace moe::runtime
