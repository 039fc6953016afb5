// The runtime's text, image and ask behind one C function: tests/embed holds them beside their
// Python twins.  A request and its answer are a line of JSON and then bytes.
#include <cstring>
#include <map>
#include <string>
#include <string_view>

#include "ask/asking.h"
#include "ask/single.h"
#include "core/error.h"
#include "core/json.h"
#include "image/image.h"
#include "image/patches.h"
#include "image/resize.h"
#include "image/tiles.h"
#include "text/pieces.h"
#include "text/tokenizer.h"

namespace {

using namespace moe::runtime;

constexpr int kDepth = 32;

struct Request {
  json said;
  std::string_view bytes;

  std::string text(const char* name) const { return said.at(name).get<std::string>(); }
  int64_t integer(const char* name) const { return said.at(name).get<int64_t>(); }
  Image image() const {
    const int64_t height = integer("height"), width = integer("width");
    return Image::from_pixels(reinterpret_cast<const uint8_t*>(bytes.data()), height, width, 3);
  }
};

std::string_view view_of(const std::vector<uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string answer(const json& said, std::string_view bytes = {}) {
  // Text that is not UTF-8 must not hide what it is.
  return said.dump(-1, ' ', true, json::error_handler_t::replace) + "\n" + std::string(bytes);
}

std::string answer(const Image& image) {
  return answer({{"height", image.height}, {"width", image.width}}, view_of(image.rgb));
}

std::string answer(const std::map<std::string, Array>& arrays, json said) {
  std::string bytes;
  said["arrays"] = json::array();
  for (const auto& [name, array] : arrays) {
    said["arrays"].push_back(
        {{"name", name}, {"dtype", name_of(array.dtype)}, {"shape", array.shape}});
    bytes.append(reinterpret_cast<const char*>(array.data.data()), array.data.size());
  }
  return answer(said, bytes);
}

std::string answer(const Seen& seen) {
  return answer(seen.inputs,
                {{"text", seen.text}, {"features", seen.features}, {"grid", seen.grid}});
}

Resample resample_of(const std::string& name) {
  return name == "bilinear" ? Resample::bilinear
         : name == "bicubic" ? Resample::bicubic
                             : Resample::lanczos;
}

// Tokenizers by the number that `open` gave.
std::map<int64_t, Tokenizer>& opened() {
  static std::map<int64_t, Tokenizer> tokenizers;
  return tokenizers;
}

std::string do_open(const Request& request) {
  const auto number = static_cast<int64_t>(opened().size());
  opened().emplace(number, Tokenizer::from_json(request.bytes, request.text("where")));
  return answer({{"tokenizer", number}});
}

std::string do_encode(const Request& request) {
  const Tokenizer& tokenizer = opened().at(request.integer("tokenizer"));
  return answer({{"ids", tokenizer.encode(request.bytes, request.said.at("special").get<bool>())}});
}

// The bytes as they are: JSON would mend what is not UTF-8.
std::string do_decode_ids(const Request& request) {
  const Tokenizer& tokenizer = opened().at(request.integer("tokenizer"));
  return answer(json::object(), tokenizer.decode(request.said.at("ids").get<std::vector<int64_t>>(),
                                     request.said.at("skip").get<bool>()));
}

std::string do_pieces(const Request& request) {
  Pieces pieces(opened().at(request.integer("tokenizer")));
  json said = json::array();
  for (const json& id : request.said.at("ids")) {
    const std::string piece = pieces.push(id.get<int64_t>());
    if (!piece.empty()) said.push_back(piece);
  }
  const std::string rest = pieces.finish();
  if (!rest.empty()) said.push_back(rest);
  return answer({{"pieces", said}});
}

std::string do_id_of(const Request& request) {
  const auto id = opened().at(request.integer("tokenizer")).token_to_id(request.bytes);
  return answer({{"id", id ? json(*id) : json()}});
}

std::string do_read(const Request& request) {
  return answer(decode(request.bytes, request.text("where")));
}

std::string do_read_file(const Request& request) { return answer(decode_file(request.text("path"))); }

std::string do_resize(const Request& request) {
  return answer(resized(request.image(), request.integer("to_height"), request.integer("to_width"),
                        resample_of(request.text("how"))));
}

std::string do_patches(const Request& request) {
  return answer(patches_of(request.image(), read_patches(Field(request.said.at("recipe"), "recipe"))));
}

std::string do_patches_of_file(const Request& request) {
  return answer(patches_of(decode_file(request.text("path")),
                           read_patches(Field(request.said.at("recipe"), "recipe"))));
}

std::string do_fitted(const Request& request) {
  const Size size = fitted(request.integer("height"), request.integer("width"),
                           read_patches(Field(request.said.at("recipe"), "recipe")));
  return answer({{"height", size.height}, {"width", size.width}});
}

std::string do_tiles(const Request& request) {
  return answer(tiles_of(request.image(), read_tiles(Field(request.said.at("recipe"), "recipe"))));
}

std::string do_prepare(const Request& request) {
  const auto made = ImagePreprocessor::read(request.text("config"), "preprocessor_config.json");
  return answer({{"image", made.prepare(request.image())}}, {{"image_input", made.image_input}});
}

std::string do_single(const Request& request) {
  const auto made = GenerationConfig::read(request.text("config"), "generation_config.json");
  return answer({{"text_input", made.text_input},
                 {"logits_output", made.logits_output ? json(*made.logits_output) : json()},
                 {"ids", made.encode(request.bytes, opened().at(request.integer("tokenizer")))}});
}

// A prompt about images of the sizes given, whose pixels lie one behind the other; the words last.
std::string do_ask(const Request& request) {
  const Asking asking(request.text("dialogue"), opened().at(request.integer("tokenizer")),
                      "dialogue.json");
  std::vector<Seen> seen;
  std::string_view rest = request.bytes;
  for (const json& size : request.said.at("images")) {
    const auto height = size.at(0).get<int64_t>(), width = size.at(1).get<int64_t>();
    seen.push_back(asking.see(Image::from_pixels(
        reinterpret_cast<const uint8_t*>(rest.data()), height, width, 3)));
    rest.remove_prefix(static_cast<size_t>(height * width * 3));
  }
  std::vector<const Seen*> images;
  for (const Seen& image : seen) images.push_back(&image);
  const std::vector<int64_t> ids = asking.encode(rest, images);
  std::map<std::string, Array> arrays = asking.vision_inputs(images);
  arrays.emplace("positions", asking.positions(ids, images));
  return answer(arrays, {{"ids", ids}});
}

const std::map<std::string, std::string (*)(const Request&)>& requests() {
  static const std::map<std::string, std::string (*)(const Request&)> known = {
      {"open", do_open},       {"encode", do_encode},       {"decode", do_decode_ids},
      {"pieces", do_pieces},   {"id_of", do_id_of},         {"read", do_read},
      {"read_file", do_read_file}, {"resize", do_resize},   {"patches", do_patches},
      {"patches_of_file", do_patches_of_file},
      {"fitted", do_fitted},   {"tiles", do_tiles},         {"prepare", do_prepare},
      {"single", do_single},   {"ask", do_ask},
  };
  return known;
}

}  // namespace

// The answer to `size` bytes of a request; it lives until the thread asks again.
extern "C" __attribute__((visibility("default"))) const char* moe_runtime_probe(const char* request,
                                                                                size_t size,
                                                                                size_t* answered) {
  static thread_local std::string said;
  const std::string_view all(request, size);
  const size_t line = all.find('\n');
  try {
    const Request asked{parse(all.substr(0, line), "a request", kDepth), all.substr(line + 1)};
    said = requests().at(asked.text("do"))(asked);
  } catch (const Error& error) {
    said = answer({{"error",
                    {{"kind", static_cast<int>(error.kind)},
                     {"what", error.what()},
                     {"where", error.where},
                     {"hint", error.hint}}}});
  }
  *answered = said.size();
  return said.data();
}
