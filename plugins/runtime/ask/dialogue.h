// How a bundle of several graphs is talked to: dialogue.json.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_ASK_DIALOGUE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_ASK_DIALOGUE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "image/recipe.h"

namespace moe::runtime {

// What stands around a user's words where a model answers them.
struct Prompt {
  std::string before, after;
  // What stands for one image, in front of the words; it holds the image's token once.
  std::optional<std::string> image;
};

struct Dialogue {
  enum class Positions { plain, mrope };
  Positions positions = Positions::plain;
  std::vector<int64_t> eos_token_ids;
  int64_t max_length = 0;  // of prompt and answer together, in tokens
  int64_t max_new_tokens = 0;
  Prompt prompt;
  std::optional<PatchRecipe> patches;
  std::optional<TileRecipe> tiles;
  std::optional<std::string> no_images;  // why a model that sees has no recipe

  // What is done with an image; null where the model is shown none.
  const ImageRecipe* images() const;
};

// Raises Error(unsafe) naming the field for what moe_export/dialogue.py refuses.
Dialogue read_dialogue(std::string_view bytes, const std::string& where);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_ASK_DIALOGUE_H_
