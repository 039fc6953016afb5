#include "ask/dialogue.h"

#include <algorithm>

#include "core/json.h"

namespace moe::runtime {

namespace {

Prompt read_prompt(const Field& value) {
  Members members(value);
  Prompt made;
  made.before = members.at("before").text();
  made.after = members.at("after").text();
  if (const auto image = members.given("image")) made.image = image->text();
  members.done();
  return made;
}

int times(const std::string& part, const std::string& text) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

}  // namespace

const ImageRecipe* Dialogue::images() const {
  if (patches) return &*patches;
  return tiles ? &*tiles : nullptr;
}

Dialogue read_dialogue(std::string_view bytes, const std::string& where) {
  const json value = parse(bytes, where);
  Members members(value, where);
  Dialogue made;
  made.positions = members.at("positions").choice({"plain", "mrope"}) == "mrope"
                       ? Dialogue::Positions::mrope
                       : Dialogue::Positions::plain;
  made.eos_token_ids = members.at("eos_token_ids").integers();
  made.max_length = members.at("max_length").integer();
  made.max_new_tokens = members.at("max_new_tokens").integer();
  made.prompt = read_prompt(members.at("prompt"));
  if (const auto patches = members.given("patches")) made.patches = read_patches(*patches);
  if (const auto tiles = members.given("tiles")) made.tiles = read_tiles(*tiles);
  if (const auto reason = members.given("no_images")) made.no_images = reason->text();
  members.done();

  const auto& eos = made.eos_token_ids;
  const bool negative = std::any_of(eos.begin(), eos.end(), [](int64_t id) { return id < 0; });
  if (made.max_length < 1 || made.max_new_tokens < 1 || negative) {
    members.refuse("a length is less than 1, or a token id is negative");
  }
  if (made.patches && made.tiles) {
    members.refuse("an image is made into patches or tiles, not both");
  }
  if (made.images() && times(made.images()->token, made.prompt.image.value_or("")) != 1) {
    members.refuse("the prompt has no place for an image, or several for one");
  }
  if (made.positions == Dialogue::Positions::mrope && made.tiles) {
    members.refuse("tiles have no grid that positions could follow");
  }
  return made;
}

}  // namespace moe::runtime
