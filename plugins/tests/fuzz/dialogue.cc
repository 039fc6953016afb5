// dialogue.json, and an image for its recipe: whatever the file holds, the image becomes inputs of
// `vision` or there is an Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "ask/dialogue.h"
#include "core/error.h"
#include "image/patches.h"
#include "image/tiles.h"

namespace {

using namespace moe::runtime;

// The sizes are bytes of the file's length, so that they vary with it.
Image image_for(size_t size) {
  Image made = Image::of(int64_t(1 + size % 61), int64_t(1 + size % 47));
  for (size_t i = 0; i < made.rgb.size(); ++i) made.rgb[i] = static_cast<uint8_t>(i * 31);
  return made;
}

void run(const Dialogue& dialogue, const Image& image) {
  // A gigabyte at each try is slow and finds nothing.
  constexpr int64_t kMost = 1 << 16;
  if (dialogue.patches) {
    const PatchRecipe& recipe = *dialogue.patches;
    if (recipe.max_pixels > kMost || recipe.unit() > 256 || recipe.temporal_patch_size > 8) return;
    patches_of(image, recipe);
  } else if (dialogue.tiles) {
    const TileRecipe& recipe = *dialogue.tiles;
    if (recipe.height * recipe.width > kMost / recipe.max_tiles || recipe.features > 256) return;
    if (recipe.crops && (recipe.crops->side > 64 || recipe.crops->features > 256)) return;
    tiles_of(image, recipe);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    run(read_dialogue({reinterpret_cast<const char*>(data), size}, "dialogue.json"),
        image_for(size));
  } catch (const Error& error) {
    if (error.kind == Kind::internal) std::abort();
  }
  return 0;
}
