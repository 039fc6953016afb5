// An image as patches, the way vision transformers of any resolution take it.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_PATCHES_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_PATCHES_H_

#include "image/fitted.h"
#include "image/seen.h"

namespace moe::runtime {

// An image as the patches of recipe.layout:
// - blocks: pixel_values [patches, C * time * patch * patch], patches of one feature behind one
//   another, and image_grid_thw [1, 3]: time, height, width.
// - rows: pixel_values [patches, C, patch, patch], row by row, and the same grid.
// - places: pixel_values [1, most, patch * patch * C], row by row, and image_position_ids
//   [1, most, 2]: column and row, -1 behind the image's patches.
// - times: pixel_values [patches, time * C * patch * patch], row by row, and a grid.
// Raises what `fitted` does.
Seen patches_of(const Image& image, const PatchRecipe& recipe);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_PATCHES_H_
