#include "ask/single.h"

#include <algorithm>

#include "core/error.h"
#include "core/json.h"
#include "core/words.h"
#include "image/resize.h"

namespace moe::runtime {

namespace {

// Refuses settings that this release would silently ignore.
void refuse_unknown(const Members& members, const std::string& where,
                    std::vector<std::string> known) {
  const auto name = members.unknown();
  if (!name) return;
  std::sort(known.begin(), known.end());
  throw Error(Kind::unsupported, "unknown setting " + in_quotes(*name), where,
              "this release knows " + listed(known));
}

// A list of numbers, if it is given.
std::optional<std::vector<double>> channels_of(Members* members, const char* name, size_t channels) {
  const auto found = members->given(name);
  if (!found) return std::nullopt;
  std::vector<double> values = found->numbers();
  if (values.size() != channels) {
    members->refuse(std::string(name) + " has " + std::to_string(values.size()) + " numbers for " +
                    std::to_string(channels) + " channels");
  }
  return values;
}

}  // namespace

GenerationConfig GenerationConfig::read(std::string_view bytes, const std::string& where) {
  const json value = parse(bytes, where);
  Members members(value, where);
  GenerationConfig made;
  // All that are known are asked for before one that is missing is missed.
  for (const char* name : {"text_input", "eos_token_id", "pad_token_id", "max_new_tokens",
                           "max_length", "logits_output"}) {
    members.find(name);
  }
  refuse_unknown(members, where, {"text_input", "eos_token_id", "pad_token_id", "max_new_tokens",
                                  "max_length", "logits_output"});
  made.text_input = members.at("text_input").text();
  made.eos_token_id = members.at("eos_token_id").integer();
  made.pad_token_id = members.at("pad_token_id").integer();
  made.max_new_tokens = members.at("max_new_tokens").integer();
  made.max_length = members.at("max_length").integer();
  if (const auto output = members.given("logits_output")) made.logits_output = output->text();
  if (std::min(made.max_new_tokens, made.max_length) < 1) {
    members.refuse("max_new_tokens and max_length are 1 or more");
  }
  if (std::min(made.eos_token_id, made.pad_token_id) < 0) members.refuse("a token id is negative");
  return made;
}

std::vector<int64_t> GenerationConfig::encode(std::string_view prompt,
                                              const Tokenizer& tokenizer) const {
  std::vector<int64_t> ids = tokenizer.encode(prompt);
  if (ids.empty()) throw Error(Kind::usage, "the prompt holds no token", "", "ask something");
  if (static_cast<int64_t>(ids.size()) >= max_length) {
    throw Error(Kind::usage,
                "the prompt has " + std::to_string(ids.size()) +
                    " tokens; with one for the answer the model takes " +
                    std::to_string(max_length),
                "", "ask something shorter");
  }
  return ids;
}

ImagePreprocessor ImagePreprocessor::read(std::string_view bytes, const std::string& where) {
  const json value = parse(bytes, where);
  Members members(value, where);
  const std::vector<std::string> known = {"image_input", "size",       "mode",      "rescale_factor",
                                          "layout",      "image_mean", "image_std"};
  for (const std::string& name : known) members.find(name.c_str());
  refuse_unknown(members, where, known);
  ImagePreprocessor made;
  made.image_input = members.at("image_input").text();
  Members size(members.at("size"));
  made.height = size.at("height").integer();
  made.width = size.at("width").integer();
  size.done();
  if (std::min(made.height, made.width) < 1 || made.height > kMaxPixels / made.width) {
    size.refuse("an image of " + std::to_string(made.height) + " x " + std::to_string(made.width) +
                " pixels");
  }
  if (const auto mode = members.find("mode")) made.grey = mode->choice({"L", "RGB"}) == "L";
  if (const auto factor = members.find("rescale_factor")) made.rescale_factor = factor->number();
  if (const auto layout = members.find("layout")) {
    const std::string name = layout->choice({"HW", "CHW", "HWC"});
    made.layout = name == "HW" ? Layout::hw : name == "CHW" ? Layout::chw : Layout::hwc;
  }
  const size_t channels = made.grey ? 1 : 3;
  if (made.layout == Layout::hw && channels != 1) {
    members.refuse("layout 'HW' has no axis for the 3 channels of RGB");
  }
  made.image_mean = channels_of(&members, "image_mean", channels);
  made.image_std = channels_of(&members, "image_std", channels);
  if (made.image_std && std::count(made.image_std->begin(), made.image_std->end(), 0.0)) {
    members.refuse("image_std holds a zero");
  }
  return made;
}

std::vector<int64_t> ImagePreprocessor::shape() const {
  const int64_t channels = grey ? 1 : 3;
  switch (layout) {
    case Layout::hw: return {height, width};
    case Layout::chw: return {channels, height, width};
    case Layout::hwc: return {height, width, channels};
  }
  throw Error(Kind::internal, "no such layout");
}

Array ImagePreprocessor::prepare(const Image& image) const {
  const size_t channels = grey ? 1 : 3;
  // Grey is weighed before it is resized, as bytes.
  const Image coloured =
      grey ? Image::from_pixels(grey_of(image).data(), image.height, image.width, 1) : image;
  const Image pixels = resized(coloured, height, width, Resample::bilinear);
  const size_t count = size_t(height) * size_t(width);
  Array made = Array::of(DType::float32, shape());
  const float factor = static_cast<float>(rescale_factor);
  for (size_t channel = 0; channel < channels; ++channel) {
    float of_byte[256];
    for (int byte = 0; byte < 256; ++byte) {
      float value = static_cast<float>(byte) * factor;
      if (image_mean) value -= static_cast<float>((*image_mean)[channel]);
      if (image_std) value /= static_cast<float>((*image_std)[channel]);
      of_byte[byte] = value;
    }
    const size_t first = layout == Layout::hwc ? channel : channel * count;
    const size_t step = layout == Layout::hwc ? channels : 1;
    float* to = made.as<float>() + first;
    for (size_t i = 0; i < count; ++i) to[i * step] = of_byte[pixels.rgb[i * 3 + channel]];
  }
  return made;
}

}  // namespace moe::runtime
