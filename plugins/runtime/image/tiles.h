// An image as tiles of one size, the way vision transformers of one resolution take it.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_TILES_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_TILES_H_

#include "image/seen.h"

namespace moe::runtime {

// Rows and columns of tiles.
struct TileGrid {
  int64_t rows = 1, columns = 1;
};

// An image as pixel_values [tiles, C, height, width], row by row, the whole of it last where it is
// cut; with it pixel_mask [tiles, height, width], true where a pixel is of the image, if the recipe
// has masks.  Raises Error(unsupported) for an image that the model's processor would cut in ways
// which no recipe has, Error(usage) for one so long and thin that it has no size.
Seen tiles_of(const Image& image, const TileRecipe& recipe);

// The tiles that an image of height x width is cut into.
TileGrid grid_of(int64_t height, int64_t width, const TileRecipe& recipe);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_TILES_H_
