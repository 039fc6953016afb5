#include "image/crops.h"

#include <algorithm>

#include "image/image.h"

namespace moe::runtime {

namespace {

// Step 3.7's: an image so thin is put on a square first, and one so long is cut by its shorter side.
constexpr int64_t kThin = 32, kLong = 4;
constexpr double kRatherLong = 1.5;
// A rest of more than this part of a window is another window.
constexpr double kRest = 0.2;

Plan gridded(const Size& image, const CropRecipe& crops) {
  Plan made;
  made.whole = made.canvas = made.window = image;
  const int64_t side = crops.side;
  if (std::max(image.height, image.width) <= side) return made;
  made.grid = nearest_shape(image, {side, side}, crops.min_pieces, crops.max_pieces);
  made.canvas = {made.grid.rows * side, made.grid.columns * side};
  made.window = {side, side};
  return made;
}

// Whole windows, and one more for a rest that counts; what is less than one stays.
int64_t snapped(int64_t size, int64_t window) {
  if (size < window) return size;
  const bool counts = static_cast<double>(size % window) > kRest * static_cast<double>(window);
  return window * (size / window + (counts ? 1 : 0));
}

// The side of the windows that an image is cut into; 0 where it is not.
int64_t window_of(const Size& image, int64_t tile, const CropRecipe& crops) {
  const int64_t longer = std::max(image.height, image.width);
  const int64_t shorter = std::min(image.height, image.width);
  const double shape = static_cast<double>(longer) / static_cast<double>(shorter);
  if (longer <= tile) return shape > kRatherLong ? shorter : 0;
  return shape > kLong ? std::min(shorter, crops.side) : crops.side;
}

Plan windowed(const Size& image, int64_t tile, const CropRecipe& crops) {
  Plan made;
  Size size = image;
  const int64_t longer = std::max(size.height, size.width);
  const int64_t shorter = std::min(size.height, size.width);
  if (shorter < kThin && longer > kLong * shorter) {
    if (longer > kMaxPixels / longer) refuse_thin(image.height, image.width);
    made.square = longer;
    size = {longer, longer};
  }
  if (crops.largest && longer > *crops.largest) {
    const double scale = static_cast<double>(*crops.largest) / static_cast<double>(longer);
    size.height = static_cast<int64_t>(static_cast<double>(size.height) * scale);
    size.width = static_cast<int64_t>(static_cast<double>(size.width) * scale);
  }
  if (size.height < 1 || size.width < 1) refuse_thin(image.height, image.width);
  made.whole = made.canvas = made.window = size;
  const int64_t window = window_of(size, tile, crops);
  if (window == 0) return made;
  made.canvas = {snapped(size.height, window), snapped(size.width, window)};
  made.window = {std::min(made.canvas.height, window), std::min(made.canvas.width, window)};
  made.grid = {std::max<int64_t>(1, made.canvas.height / window),
               std::max<int64_t>(1, made.canvas.width / window)};
  return made;
}

}  // namespace

Plan plan_of(int64_t height, int64_t width, int64_t tile, const CropRecipe& crops) {
  if (crops.fit == CropRecipe::Fit::grid) return gridded({height, width}, crops);
  return windowed({height, width}, tile, crops);
}

Image squared(const Image& image, const Plan& plan) {
  if (!plan.square) return image;
  Image made = Image::of(*plan.square, *plan.square);
  paste(image, 0, 0, &made);
  return made;
}

Array pieces_of(const Image& image, const Plan& plan, const CropRecipe& crops, Resample how,
                const Numbers& numbers) {
  const int64_t pieces = plan.grid.rows * plan.grid.columns, side = crops.side;
  check_numbers(pieces, 3 * side * side);
  if (pieces == 0) return Array::of(DType::float32, {0, 3, side, side});
  const Image canvas = resized(image, plan.canvas.height, plan.canvas.width, how);
  Array made = Array::of(DType::float32, {pieces, 3, side, side});
  Image piece = Image::of(plan.window.height, plan.window.width);
  float* to = made.as<float>();
  for (int64_t row = 0; row < plan.grid.rows; ++row) {
    for (int64_t column = 0; column < plan.grid.columns; ++column) {
      paste(canvas, static_cast<int>(-column * plan.window.width),
            static_cast<int>(-row * plan.window.height), &piece);
      to = numbers.put(resized(piece, side, side, how), 0, 0, {side, side}, to);
    }
  }
  return made;
}

}  // namespace moe::runtime
