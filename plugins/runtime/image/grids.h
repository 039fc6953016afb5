// Which grid of tiles an image is stretched over.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_GRIDS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_GRIDS_H_

#include <cstdint>
#include <vector>

#include "image/image.h"

namespace moe::runtime {

// Rows and columns of tiles.
struct TileGrid {
  int64_t rows = 1, columns = 1;
};

// The grids of `least` to `most` tiles, those of fewest first; `columns_first` orders those alike.
std::vector<TileGrid> grids_of(int64_t least, int64_t most, bool columns_first);

// Of these the one whose shape is nearest, of several alike the largest that the image half fills.
TileGrid nearest_shape(const Size& image, const Size& tile, int64_t least, int64_t most);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_GRIDS_H_
