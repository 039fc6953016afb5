// Bundles of moe-export in C++17: RAII and exceptions over moe_export.h, all of it in this header, so that
// a program and the library need not be of one compiler.
//
//   moe::Generator generator(moe::Bundle::open("qwen.moe"));
//   generator.generate("What is on the table?", {moe::Image::file("photo.jpg")}, {},
//                      [](std::string_view piece) { std::cout << piece << std::flush; });
//
// What goes wrong is thrown as moe::Error.  Objects may be moved and are freed when they go; sessions and
// generators may be used by several threads at once.
#ifndef MOE_EXPORT_MOE_EXPORT_HPP_
#define MOE_EXPORT_MOE_EXPORT_HPP_

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "moe_export/moe_export.h"

namespace moe {

// Numbered as the exit codes of the program moe-export.
enum class Kind {
  internal = MOE_EXPORT_INTERNAL,
  usage = MOE_EXPORT_USAGE,
  unsupported = MOE_EXPORT_UNSUPPORTED,
  parity = MOE_EXPORT_PARITY,
  environment = MOE_EXPORT_ENVIRONMENT,
  memory = MOE_EXPORT_MEMORY,
  unsafe = MOE_EXPORT_UNSAFE,
};

// what() is all of it, as the program prints it; message(), where() and hint() are its parts.
class Error : public std::runtime_error {
 public:
  Error(Kind kind, std::string message, std::string where = "", std::string hint = "")
      : std::runtime_error(joined(message, where, hint)),
        kind_(kind),
        message_(std::move(message)),
        where_(std::move(where)),
        hint_(std::move(hint)) {}

  Kind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  const std::string& message() const { return message_; }
  const std::string& where() const { return where_; }
  const std::string& hint() const { return hint_; }

 private:
  static std::string joined(const std::string& message, const std::string& where,
                            const std::string& hint) {
    std::string text = message;
    if (!where.empty()) text += "\nat: " + where;
    if (!hint.empty()) text += "\nhint: " + hint;
    return text;
  }
  Kind kind_;
  std::string message_, where_, hint_;
};

namespace detail {

// Frees a handle of the C interface by the function of its name.
struct Free {
  void operator()(moe_export_bundle* made) const { moe_export_bundle_free(made); }
  void operator()(moe_export_session* made) const { moe_export_session_free(made); }
  void operator()(moe_export_tensor* made) const { moe_export_tensor_free(made); }
  void operator()(moe_export_generator* made) const { moe_export_generator_free(made); }
  void operator()(moe_export_answer* made) const { moe_export_answer_free(made); }
  void operator()(moe_export_cancellation* made) const { moe_export_cancellation_free(made); }
  void operator()(moe_export_error* made) const { moe_export_error_free(made); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

inline void check(moe_export_error* error) {
  if (error == nullptr) return;
  const Owned<moe_export_error> owned(error);
  throw Error(static_cast<Kind>(moe_export_error_kind(error)), moe_export_error_message(error),
              moe_export_error_where(error), moe_export_error_hint(error));
}

inline const char* or_null(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

// Refuses a library of another ABI than this header's, once.
inline void check_abi() {
  static const bool same = moe_export_abi_version() == MOE_EXPORT_ABI_VERSION;
  if (same) return;
  throw Error(Kind::environment,
              "libmoe_export has ABI " + std::to_string(moe_export_abi_version()) +
                  ", this program was compiled for " + std::to_string(MOE_EXPORT_ABI_VERSION),
              "libmoe_export", "install the library that the program was compiled with");
}

}  // namespace detail

// A verified model on disk.
class Bundle {
 public:
  // Opens it after every file was found to be what its manifest says.  Without `verify` the SHA-256 of
  // the files are left out, one pass over all bytes, and nothing else.
  static Bundle open(const std::string& path, bool verify = true) {
    detail::check_abi();
    moe_export_open_options options{};
    options.size = sizeof options;
    options.skip_digests = verify ? 0 : 1;
    moe_export_bundle* made = nullptr;
    detail::check(moe_export_bundle_open(path.c_str(), &options, &made));
    return Bundle(made);
  }

  std::string path() const { return moe_export_bundle_path(handle_.get()); }
  std::string target() const { return moe_export_bundle_target(handle_.get()); }
  // SHA-256 of the manifest: the bundle's identity.
  std::string digest() const { return moe_export_bundle_digest(handle_.get()); }
  std::vector<std::string> components() const {
    std::vector<std::string> made;
    for (size_t i = 0; i < moe_export_bundle_component_count(handle_.get()); ++i) {
      made.emplace_back(moe_export_bundle_component(handle_.get(), i));
    }
    return made;
  }

  const moe_export_bundle* handle() const { return handle_.get(); }

 private:
  explicit Bundle(moe_export_bundle* made) : handle_(made) {}
  detail::Owned<moe_export_bundle> handle_;
};

// Where libraries are found and how many threads a run has; see moe_export.h.
struct Runtime {
  int threads = 0;
  std::string onnxruntime, kernels;
};

// The element type of a C++ type.
template <typename T>
constexpr moe_export_dtype dtype_of() {
  using U = std::remove_cv_t<T>;
  if constexpr (std::is_same_v<U, float>) return MOE_EXPORT_FLOAT32;
  else if constexpr (std::is_same_v<U, double>) return MOE_EXPORT_FLOAT64;
  else if constexpr (std::is_same_v<U, bool>) return MOE_EXPORT_BOOL;
  else if constexpr (std::is_same_v<U, int8_t>) return MOE_EXPORT_INT8;
  else if constexpr (std::is_same_v<U, uint8_t>) return MOE_EXPORT_UINT8;
  else if constexpr (std::is_same_v<U, int16_t>) return MOE_EXPORT_INT16;
  else if constexpr (std::is_same_v<U, uint16_t>) return MOE_EXPORT_UINT16;
  else if constexpr (std::is_same_v<U, int32_t>) return MOE_EXPORT_INT32;
  else if constexpr (std::is_same_v<U, uint32_t>) return MOE_EXPORT_UINT32;
  else if constexpr (std::is_same_v<U, int64_t>) return MOE_EXPORT_INT64;
  else if constexpr (std::is_same_v<U, uint64_t>) return MOE_EXPORT_UINT64;
  else static_assert(!sizeof(U), "no tensor has elements of this type; give a dtype and bytes");
}

// A dense tensor in the caller's memory, which outlives it.  It is read where it lies.
struct Input {
  moe_export_dtype dtype = MOE_EXPORT_FLOAT32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  size_t bytes = 0;

  template <typename T>
  static Input of(const std::vector<T>& numbers, std::vector<int64_t> shape) {
    static_assert(!std::is_same_v<T, bool>, "vector<bool> has no bytes; use uint8_t and a dtype");
    return {dtype_of<T>(), std::move(shape), numbers.data(), numbers.size() * sizeof(T)};
  }
};

// What a run made, where the runtime put it.
class Tensor {
 public:
  moe_export_dtype dtype() const { return moe_export_tensor_dtype(handle_.get()); }
  std::vector<int64_t> shape() const {
    const int64_t* first = moe_export_tensor_shape(handle_.get());
    return {first, first + moe_export_tensor_rank(handle_.get())};
  }
  const void* data() const { return moe_export_tensor_data(handle_.get()); }
  size_t bytes() const { return moe_export_tensor_bytes(handle_.get()); }
  // The numbers; Error(usage) where they are of another type.
  template <typename T>
  const T* as() const {
    if (dtype() != dtype_of<T>()) throw Error(Kind::usage, "the tensor has another dtype");
    return static_cast<const T*>(data());
  }

 private:
  friend class Session;
  explicit Tensor(moe_export_tensor* made) : handle_(made) {}
  detail::Owned<moe_export_tensor> handle_;
};

// An input or an output of a graph: -1 where a size may vary, and the name that such a size has.
struct Port {
  std::string name, dtype;
  std::vector<int64_t> sizes;
  std::vector<std::string> size_names;
};

// One graph of a bundle: arrays by name in, arrays by name out.
class Session {
 public:
  explicit Session(const Bundle& bundle, const std::string& component = "model",
                   const Runtime& runtime = {}, const std::string& graph = "main") {
    moe_export_session_options options{};
    options.size = sizeof options;
    options.component = component.c_str();
    options.graph = graph.c_str();
    options.threads = runtime.threads;
    options.onnxruntime = detail::or_null(runtime.onnxruntime);
    options.kernels = detail::or_null(runtime.kernels);
    moe_export_session* made = nullptr;
    detail::check(moe_export_session_create(bundle.handle(), &options, &made));
    handle_.reset(made);
    for (Port& port : outputs()) output_names_.push_back(std::move(port.name));
  }

  std::vector<Port> inputs() const {
    return ports(moe_export_session_input_count(handle_.get()), moe_export_session_input);
  }
  std::vector<Port> outputs() const {
    return ports(moe_export_session_output_count(handle_.get()), moe_export_session_output);
  }

  // The named outputs, all where none is named.
  std::map<std::string, Tensor> run(const std::map<std::string, Input>& inputs,
                                    const std::vector<std::string>& outputs = {}) const {
    std::vector<moe_export_array> given;
    for (const auto& [name, input] : inputs) {
      given.push_back({name.c_str(), input.dtype, input.shape.size(), input.shape.data(),
                       input.data, input.bytes});
    }
    const std::vector<std::string>& wanted = outputs.empty() ? output_names_ : outputs;
    std::vector<const char*> names;
    for (const std::string& name : wanted) names.push_back(name.c_str());
    std::vector<moe_export_tensor*> tensors(wanted.size());
    detail::check(moe_export_session_run(handle_.get(), given.data(), given.size(), names.data(),
                                         names.size(), tensors.data()));
    std::map<std::string, Tensor> made;
    for (size_t i = 0; i < wanted.size(); ++i) made.emplace(wanted[i], Tensor(tensors[i]));
    return made;
  }

 private:
  template <typename At>
  std::vector<Port> ports(size_t count, At at) const {
    std::vector<Port> made;
    for (size_t i = 0; i < count; ++i) {
      const moe_export_port* port = at(handle_.get(), i);
      made.push_back({port->name, port->dtype, {port->sizes, port->sizes + port->rank},
                      {port->size_names, port->size_names + port->rank}});
    }
    return made;
  }
  detail::Owned<moe_export_session> handle_;
  std::vector<std::string> output_names_;
};

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

#endif  // MOE_EXPORT_MOE_EXPORT_HPP_
