// An image as tiles of one size, the way vision transformers of one resolution take it.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_TILES_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_TILES_H_

#include "image/grids.h"
#include "image/seen.h"

namespace moe::runtime {

// An image as pixel_values [tiles, C, height, width], row by row, the whole of it last where it is
// cut; with it pixel_mask [tiles, height, width], true where a pixel is of the image, if the recipe
// has masks; pixel_values_local [pieces, C, side, side] and is_whole [features] if it has crops, and
// piece_grid [1, 2], rows and columns, if these are joined.
// Raises Error(unsupported) for an image that the model's processor would cut in ways which the
// recipe has not, Error(usage) for one so long and thin that it has no size, and what `squared` and
// `pieces_of` raise.
Seen tiles_of(const Image& image, const TileRecipe& recipe);

// The tiles that an image of height x width is cut into.
TileGrid grid_of(int64_t height, int64_t width, const TileRecipe& recipe);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_TILES_H_
