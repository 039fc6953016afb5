#include "generate/generator.h"

#include "abi/handles.h"
#include "core/files.h"
#include "core/words.h"

using namespace moe::runtime;
using namespace moe::runtime::abi;

struct moe_export_generator {
  Generator generator;
};
struct moe_export_cancellation {
  Stop stop;
};
struct moe_export_answer {
  Answer answer;
};

namespace {

constexpr size_t kBatch = 16;

Options options_of(const moe_export_generate_options& asked) {
  Options made;
  made.max_new_tokens = asked.max_new_tokens;
  made.temperature = asked.temperature;
  made.top_k = asked.top_k;
  made.top_p = asked.top_p == 0 ? 1 : asked.top_p;
  made.repetition_penalty = asked.repetition_penalty == 0 ? 1 : asked.repetition_penalty;
  made.seed = asked.seed;
  if (asked.stop_count > 0) require(asked.stop, "stop");
  for (size_t i = 0; i < asked.stop_count; ++i) {
    require(asked.stop[i], "a stop string");
    made.stop.emplace_back(asked.stop[i]);
  }
  return made;
}

Image image_of(const moe_export_image& given) {
  const auto image = known(&given, "moe_export_image");
  const int ways = (image.path != nullptr) + (image.bytes != nullptr) + (image.pixels != nullptr);
  if (ways != 1) throw Error(Kind::usage, "an image is a file, the bytes of one, or pixels");
  if (image.pixels != nullptr) {
    return Image::from_pixels(image.pixels, image.height, image.width, 3);
  }
  if (image.bytes != nullptr) {
    return decode({static_cast<const char*>(image.bytes), image.byte_count}, "the image");
  }
  const std::string path = image.path;
  if (!is_file(path)) throw Error(Kind::usage, "there is no such image", printable(path, 4096));
  const std::string real = resolved(path);
  return decode(read_file(real, size_of_file(real)), printable(path, 4096));
}

Request request_of(const moe_export_request& given, size_t index) {
  const auto request = known(&given, "moe_export_request");
  const auto options = known(request.options, "moe_export_generate_options");
  Request made;
  made.asked.is_ids = request.ids != nullptr;
  if (made.asked.is_ids) {
    made.asked.ids.assign(request.ids, request.ids + request.id_count);
    if (request.prompt != nullptr) throw Error(Kind::usage, "a prompt is words or ids, not both");
  } else {
    made.asked.prompt = text_or(request.prompt, "");
  }
  if (request.image_count > 0) require(request.images, "images");
  // Each image has the size that the caller's compiler gave the first.
  const auto* at = reinterpret_cast<const char*>(request.images);
  for (size_t i = 0; i < request.image_count; ++i) {
    const auto* image = reinterpret_cast<const moe_export_image*>(at);
    made.asked.images.push_back(image_of(*image));
    at += request.images->size;
  }
  made.options = options_of(options);
  if (options.listener != nullptr) {
    const moe_export_listener listener = options.listener;
    void* user = options.user;
    made.listener = [=](int64_t token, const std::string& text) {
      return listener(user, index, token, text.data(), text.size()) == 0;
    };
  }
  if (options.cancellation != nullptr) made.stop = &options.cancellation->stop;
  return made;
}

}  // namespace

moe_export_error* moe_export_generator_create(const moe_export_bundle* bundle,
                                              const moe_export_generator_options* options,
                                              moe_export_generator** generator) {
  return guarded([&] {
    require(bundle, "bundle");
    require(generator, "generator");
    const auto asked = known(options, "moe_export_generator_options");
    GeneratorOptions wanted;
    wanted.threads = asked.threads;
    wanted.libraries = {text_or(asked.onnxruntime, ""), text_or(asked.kernels, "")};
    wanted.max_cache_tokens = asked.max_cache_tokens;
    wanted.reuse_prefix = asked.keep_no_prefix == 0;
    if (asked.max_image_bytes != 0) {
      wanted.max_image_bytes = static_cast<size_t>(std::max<int64_t>(asked.max_image_bytes, 0));
    }
    *generator = new moe_export_generator{Generator(bundle->bundle, wanted)};
  });
}

void moe_export_generator_free(moe_export_generator* generator) { delete generator; }

moe_export_error* moe_export_cancellation_create(moe_export_cancellation** cancellation) {
  return guarded([&] {
    require(cancellation, "cancellation");
    *cancellation = new moe_export_cancellation;
  });
}

void moe_export_cancellation_cancel(moe_export_cancellation* cancellation) {
  if (cancellation != nullptr) moe_export_error_free(guarded([&] { cancellation->stop.now(); }));
}

void moe_export_cancellation_free(moe_export_cancellation* cancellation) { delete cancellation; }

moe_export_error* moe_export_generate(moe_export_generator* generator,
                                      const moe_export_request* request,
                                      moe_export_answer** answer) {
  return moe_export_generate_batch(generator, request, 1, answer);
}

moe_export_error* moe_export_generate_batch(moe_export_generator* generator,
                                            const moe_export_request* requests, size_t count,
                                            moe_export_answer** answers) {
  return guarded([&] {
    require(generator, "generator");
    if (count == 0) return;
    require(requests, "requests");
    require(answers, "answers");
    std::vector<Request> asked;
    const auto* at = reinterpret_cast<const char*>(requests);
    for (size_t i = 0; i < count; ++i, at += requests->size) {
      asked.push_back(request_of(*reinterpret_cast<const moe_export_request*>(at), i));
    }
    std::vector<std::unique_ptr<moe_export_answer>> made;
    for (Answer& answer : generator->generator.answer(asked, kBatch)) {
      made.push_back(std::make_unique<moe_export_answer>(moe_export_answer{std::move(answer)}));
    }
    for (auto& answer : made) *answers++ = answer.release();
  });
}

const int64_t* moe_export_answer_ids(const moe_export_answer* answer) {
  return answer->answer.ids.data();
}
size_t moe_export_answer_id_count(const moe_export_answer* answer) {
  return answer->answer.ids.size();
}
const char* moe_export_answer_text(const moe_export_answer* answer) {
  return answer->answer.text.c_str();
}
size_t moe_export_answer_text_bytes(const moe_export_answer* answer) {
  return answer->answer.text.size();
}
moe_export_finish moe_export_answer_finish(const moe_export_answer* answer) {
  return static_cast<moe_export_finish>(answer->answer.finish);
}
size_t moe_export_answer_prompt_tokens(const moe_export_answer* answer) {
  return answer->answer.prompt_tokens;
}
size_t moe_export_answer_reused_tokens(const moe_export_answer* answer) {
  return answer->answer.reused_tokens;
}
void moe_export_answer_free(moe_export_answer* answer) { delete answer; }
