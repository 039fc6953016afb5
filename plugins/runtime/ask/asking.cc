#include "ask/asking.h"

#include <algorithm>

#include "ask/positions.h"
#include "core/error.h"
#include "core/words.h"
#include "image/patches.h"
#include "image/tiles.h"

namespace moe::runtime {

namespace {

// `text` with the one `part` that it holds replaced.
std::string replaced(const std::string& text, const std::string& part, const std::string& with) {
  const size_t at = text.find(part);
  return text.substr(0, at) + with + text.substr(at + part.size());
}

}  // namespace

Asking::Asking(std::string_view dialogue, Tokenizer tokenizer, std::string where)
    : dialogue_(read_dialogue(dialogue, where)),
      tokenizer_(std::move(tokenizer)),
      where_(std::move(where)) {
  // Features go where token_id is: it must be what the tokenizer makes of the token.
  const ImageRecipe* recipe = dialogue_.images();
  if (recipe && tokenizer_.token_to_id(recipe->token) != recipe->token_id) {
    throw Error(Kind::unsafe,
                "the tokenizer knows " + in_quotes(recipe->token) + " under another id than " +
                    std::to_string(recipe->token_id),
                where_);
  }
}

Seen Asking::see(const Image& image) const {
  if (dialogue_.patches) return patches_of(image, *dialogue_.patches);
  if (dialogue_.tiles) return tiles_of(image, *dialogue_.tiles);
  if (dialogue_.no_images) {
    throw Error(Kind::unsupported,
                "images are not made ready as this model takes them: " + *dialogue_.no_images, where_,
                "run its vision, embed and decoder on arrays");
  }
  throw Error(Kind::usage, "the model takes no image", where_);
}

std::vector<int64_t> Asking::encode(std::string_view prompt,
                                    const std::vector<const Seen*>& images) const {
  const Prompt& form = dialogue_.prompt;
  const ImageRecipe* recipe = dialogue_.images();
  std::string text = form.before;
  int64_t features = 0;
  for (const Seen* image : images) {
    if (!recipe || !form.image) throw Error(Kind::usage, "the model takes no image", where_);
    text += replaced(*form.image, recipe->token, image->text);
    features += image->features;
  }
  text += prompt;
  text += form.after;
  std::vector<int64_t> ids = tokenizer_.encode(text, false);
  if (ids.empty()) throw Error(Kind::usage, "the prompt holds no token", "", "ask something");
  if (recipe && std::count(ids.begin(), ids.end(), recipe->token_id) != features) {
    throw Error(Kind::usage,
                "the prompt holds " + in_quotes(recipe->token) +
                    ", which stands for a part of an image",
                "", "ask in other words; images stand in front of them");
  }
  if (static_cast<int64_t>(ids.size()) >= dialogue_.max_length) {
    throw Error(Kind::usage,
                "the prompt has " + std::to_string(ids.size()) +
                    " tokens; with one for the answer the model takes " +
                    std::to_string(dialogue_.max_length),
                "", "ask something shorter, or show a smaller image");
  }
  return ids;
}

Array Asking::positions(const std::vector<int64_t>& ids,
                        const std::vector<const Seen*>& images) const {
  if (dialogue_.positions == Dialogue::Positions::plain) {
    return plain_positions(0, static_cast<int64_t>(ids.size()));
  }
  std::vector<std::array<int64_t, 3>> grids;
  for (const Seen* image : images) grids.push_back(image->grid);
  if (!dialogue_.patches) return mrope_positions(ids, -1, grids, 1);
  const PatchRecipe& recipe = *dialogue_.patches;
  return mrope_positions(ids, recipe.token_id, grids, recipe.merge_size, recipe.newline);
}

std::map<std::string, Array> Asking::vision_inputs(const std::vector<const Seen*>& images) const {
  return side_by_side(images);
}

}  // namespace moe::runtime
