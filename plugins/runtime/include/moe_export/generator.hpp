// A prompt and images in, an answer out, whole or piece by piece.
#ifndef MOE_EXPORT_GENERATOR_HPP_
#define MOE_EXPORT_GENERATOR_HPP_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "moe_export/session.hpp"

namespace moe {

// A file, the bytes of one, or pixels; what is not a file outlives the request.
struct Image {
  static Image file(std::string path) {
    Image made;
    made.path_ = std::move(path);
    return made;
  }
  static Image encoded(std::string_view bytes) {
    Image made;
    made.bytes_ = bytes;
    return made;
  }
  // Red, green and blue of each, row by row.
  static Image pixels(const uint8_t* rgb, int width, int height) {
    Image made;
    made.pixels_ = rgb, made.width_ = width, made.height_ = height;
    return made;
  }

  moe_export_image handle() const {
    moe_export_image made{};
    made.size = sizeof made;
    made.path = detail::or_null(path_);
    made.bytes = bytes_.data();
    made.byte_count = bytes_.size();
    made.pixels = pixels_;
    made.width = width_;
    made.height = height_;
    return made;
  }

 private:
  std::string path_;
  std::string_view bytes_;
  const uint8_t* pixels_ = nullptr;
  int width_ = 0, height_ = 0;
};

// Ends requests from another thread, in the middle of a run too.  What is cancelled stays so.
class Cancellation {
 public:
  Cancellation() {
    moe_export_cancellation* made = nullptr;
    detail::check(moe_export_cancellation_create(&made));
    handle_.reset(made);
  }
  void cancel() { moe_export_cancellation_cancel(handle_.get()); }
  moe_export_cancellation* handle() const { return handle_.get(); }

 private:
  detail::Owned<moe_export_cancellation> handle_;
};

// How the tokens of an answer are chosen, and where it ends.
struct Options {
  int64_t max_new_tokens = 0;  // 0: what the bundle says
  double temperature = 0;      // 0: the likeliest token
  int64_t top_k = 0;           // 0: all
  double top_p = 1;
  double repetition_penalty = 1;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  Cancellation* cancellation = nullptr;
};

enum class Finish {
  stop = MOE_EXPORT_FINISH_STOP,
  stop_string = MOE_EXPORT_FINISH_STOP_STRING,
  length = MOE_EXPORT_FINISH_LENGTH,
  cancelled = MOE_EXPORT_FINISH_CANCELLED,
};

struct Answer {
  std::string text;
  std::vector<int64_t> ids;
  Finish finish = Finish::stop;
  size_t prompt_tokens = 0, reused_tokens = 0;
};

// Hears an answer piece by piece; one that returns bool ends it with false.
using Listener = std::function<bool(std::string_view piece)>;

// Words and the images in front of them or, where `ids` is not empty, the ids of a whole prompt.
struct Request {
  std::string prompt;
  std::vector<Image> images;
  Options options;
  Listener listener;
  std::vector<int64_t> ids;
};

struct GeneratorOptions : Runtime {
  int64_t max_cache_tokens = 0;  // of a prompt and its answer; 0: no limit
  bool reuse_prefix = true;
  int64_t max_image_bytes = 0;  // of features that are kept; 0: 256 MiB, below 0: none
};

// A bundle that answers.
class Generator {
 public:
  explicit Generator(const Bundle& bundle, const GeneratorOptions& wanted = {}) {
    moe_export_generator_options options{};
    options.size = sizeof options;
    options.threads = wanted.threads;
    options.onnxruntime = detail::or_null(wanted.onnxruntime);
    options.kernels = detail::or_null(wanted.kernels);
    options.max_cache_tokens = wanted.max_cache_tokens;
    options.keep_no_prefix = wanted.reuse_prefix ? 0 : 1;
    options.max_image_bytes = wanted.max_image_bytes;
    moe_export_generator* made = nullptr;
    detail::check(moe_export_generator_create(bundle.handle(), &options, &made));
    handle_.reset(made);
  }

  // The answer to a prompt about images.  `listener` hears it piece by piece: a function of a
  // std::string_view that returns nothing, or false to end it.
  template <typename Hears = std::nullptr_t>
  Answer generate(std::string prompt, std::vector<Image> images = {}, Options options = {},
                  Hears&& listener = nullptr) {
    return one({std::move(prompt), std::move(images), std::move(options),
                listening(std::forward<Hears>(listener)), {}});
  }
  // The same for the ids of a whole prompt, which are taken as they are.
  template <typename Hears = std::nullptr_t>
  Answer generate_ids(std::vector<int64_t> ids, Options options = {}, Hears&& listener = nullptr) {
    return one({"", {}, std::move(options), listening(std::forward<Hears>(listener)),
                std::move(ids)});
  }
  // An answer to each request, side by side.
  std::vector<Answer> generate_batch(const std::vector<Request>& requests) {
    Batch batch(requests);
    std::vector<moe_export_answer*> made(requests.size());
    moe_export_error* error = moe_export_generate_batch(
        handle_.get(), batch.handles.data(), batch.handles.size(), made.data());
    std::vector<detail::Owned<moe_export_answer>> owned;
    for (moe_export_answer* each : made) owned.emplace_back(each);
    detail::check(error);
    if (batch.thrown) std::rethrow_exception(batch.thrown);
    std::vector<Answer> answers;
    for (const auto& each : owned) answers.push_back(read(each.get()));
    return answers;
  }

 private:
  // Requests as the C interface takes them, with all that they point to.
  struct Batch {
    explicit Batch(const std::vector<Request>& of) : requests(of) {
      const size_t count = of.size();
      images.resize(count), stops.resize(count), options.resize(count), handles.resize(count);
      for (size_t i = 0; i < count; ++i) {
        for (const Image& image : of[i].images) images[i].push_back(image.handle());
        for (const std::string& text : of[i].options.stop) stops[i].push_back(text.c_str());
        const Options& wanted = of[i].options;
        if (wanted.top_p == 0 || wanted.repetition_penalty == 0 || wanted.max_new_tokens < 0) {
          throw Error(Kind::usage, "top_p and repetition_penalty are above 0");
        }
        options[i] = {sizeof(moe_export_generate_options), wanted.max_new_tokens,
                      wanted.temperature, wanted.top_k, wanted.top_p, wanted.repetition_penalty,
                      wanted.seed, stops[i].data(), stops[i].size(), hear, this,
                      wanted.cancellation != nullptr ? wanted.cancellation->handle() : nullptr};
        const bool by_ids = !of[i].ids.empty();
        handles[i] = {sizeof(moe_export_request), by_ids ? nullptr : of[i].prompt.c_str(),
                      images[i].data(), images[i].size(), by_ids ? of[i].ids.data() : nullptr,
                      of[i].ids.size(), &options[i]};
      }
    }
    static int hear(void* self, size_t request, int64_t, const char* text, size_t bytes) {
      auto* batch = static_cast<Batch*>(self);
      const Listener& listener = batch->requests[request].listener;
      if (batch->thrown) return 1;
      if (!listener || bytes == 0) return 0;
      // Nothing may be thrown through the library: it is kept, and thrown when all has ended.
      try {
        return listener({text, bytes}) ? 0 : 1;
      } catch (...) {
        batch->thrown = std::current_exception();
        return 1;
      }
    }
    const std::vector<Request>& requests;
    std::vector<std::vector<moe_export_image>> images;
    std::vector<std::vector<const char*>> stops;
    std::vector<moe_export_generate_options> options;
    std::vector<moe_export_request> handles;
    std::exception_ptr thrown;
  };

  template <typename Hears>
  static Listener listening(Hears&& listener) {
    if constexpr (std::is_null_pointer_v<std::decay_t<Hears>>) {
      return nullptr;
    } else if constexpr (std::is_same_v<std::invoke_result_t<Hears, std::string_view>, bool>) {
      return Listener(std::forward<Hears>(listener));
    } else {
      return [listener](std::string_view piece) {
        listener(piece);
        return true;
      };
    }
  }

  static Answer read(const moe_export_answer* answer) {
    const int64_t* ids = moe_export_answer_ids(answer);
    return {{moe_export_answer_text(answer), moe_export_answer_text_bytes(answer)},
            {ids, ids + moe_export_answer_id_count(answer)},
            static_cast<Finish>(moe_export_answer_finish(answer)),
            moe_export_answer_prompt_tokens(answer),
            moe_export_answer_reused_tokens(answer)};
  }

  Answer one(Request request) {
    std::vector<Request> only;
    only.push_back(std::move(request));
    return std::move(generate_batch(only).front());
  }

  detail::Owned<moe_export_generator> handle_;
};

}  // namespace moe

#endif  // MOE_EXPORT_GENERATOR_HPP_
