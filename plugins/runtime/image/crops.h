// An image in pieces of one size, which some models look at beside the whole of it.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_CROPS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_CROPS_H_

#include <optional>

#include "image/grids.h"
#include "image/seen.h"

namespace moe::runtime {

// How an image is cut.
struct Plan {
  // The side of a black square in whose corner the image is put first.
  std::optional<int64_t> square;
  // What it is resized to before the whole of it is made a tile.
  Size whole;
  // What it is resized to before it is cut.
  Size canvas;
  // Of a piece, before it is resized.
  Size window;
  // Of pieces; 0 x 0 where it is not cut.
  TileGrid grid{0, 0};
};

// How an image of height x width is cut, by the crops of a recipe with tiles of `tile` pixels a side.
// Raises Error(usage) for one so long and thin that nothing of it is left where it is shrunk.
Plan plan_of(int64_t height, int64_t width, int64_t tile, const CropRecipe& crops);

// The image on its square, where the plan has one.  Raises Error(unsafe) for a square of more than
// kMaxPixels.
Image squared(const Image& image, const Plan& plan);

// [pieces, C, side, side] of an image on its square, row by row.  Raises Error(unsafe) for more
// numbers than are made of an image, and where a recipe makes more pixels than any image has.
Array pieces_of(const Image& image, const Plan& plan, const CropRecipe& crops, Resample how,
                const Numbers& numbers);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_CROPS_H_
