#include "image/grids.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moe::runtime {

std::vector<TileGrid> grids_of(int64_t least, int64_t most, bool columns_first) {
  std::vector<TileGrid> made;
  for (int64_t outer = 1; outer <= most; ++outer) {
    for (int64_t inner = 1; inner * outer <= most; ++inner) {
      if (inner * outer < least) continue;
      made.push_back(columns_first ? TileGrid{inner, outer} : TileGrid{outer, inner});
    }
  }
  std::stable_sort(made.begin(), made.end(), [](const TileGrid& a, const TileGrid& b) {
    return a.rows * a.columns < b.rows * b.columns;
  });
  return made;
}

TileGrid nearest_shape(const Size& image, const Size& tile, int64_t least, int64_t most) {
  TileGrid best;
  double nearest = std::numeric_limits<double>::infinity();
  const double shape = static_cast<double>(image.width) / static_cast<double>(image.height);
  const double area = static_cast<double>(image.height * image.width);
  for (const TileGrid& grid : grids_of(least, most, true)) {
    const double distance =
        std::fabs(shape - static_cast<double>(grid.columns) / static_cast<double>(grid.rows));
    const bool half_filled = area > 0.5 * tile.height * tile.width * grid.rows * grid.columns;
    if (distance < nearest || (distance == nearest && half_filled)) {
      best = grid;
      nearest = distance;
    }
  }
  return best;
}

}  // namespace moe::runtime
