#include "image/tiles.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "image/crops.h"

namespace moe::runtime {

namespace {

using Fit = TileRecipe::Fit;

void refuse_crops(const Image& image, const TileRecipe& recipe) {
  const int longer = std::max(image.width, image.height);
  const int shorter = std::min(image.width, image.height);
  const bool too_large = recipe.max_side && longer > *recipe.max_side;
  const bool too_long = recipe.max_aspect && longer > *recipe.max_aspect * shorter;
  if (!too_large && !too_long) return;
  std::string limits;
  if (recipe.max_side) limits = std::to_string(*recipe.max_side) + " pixels on a side";
  if (recipe.max_aspect) {
    char shape[64];
    std::snprintf(shape, sizeof shape, "a shape of %g to 1", *recipe.max_aspect);
    limits += (limits.empty() ? "" : " and ") + std::string(shape);
  }
  throw Error(Kind::unsupported,
              "an image of " + std::to_string(image.height) + " x " + std::to_string(image.width) +
                  " pixels is one that the model looks at in crops of another size, which bundles do"
                  " not hold yet",
              "", "show one of at most " + limits);
}

// The smallest grid that holds the image as it is; else the one that shrinks it least.  With
// `enlarge`, the one that enlarges it most.  Of several alike the one of least area.
TileGrid least_shrinking(int64_t height, int64_t width, const TileRecipe& recipe) {
  const std::vector<TileGrid> grids = grids_of(1, recipe.max_tiles, false);
  // In the precision of the source, which compares for equality.
  const auto scale_of = [&](const TileGrid& grid) {
    const float tall = static_cast<float>(grid.rows) * static_cast<float>(recipe.height);
    const float wide = static_cast<float>(grid.columns) * static_cast<float>(recipe.width);
    return std::min(tall / static_cast<float>(height), wide / static_cast<float>(width));
  };
  float most = 0, most_enlarging = 0;
  float least_enlarging = std::numeric_limits<float>::infinity();
  for (const TileGrid& grid : grids) {
    const float scale = scale_of(grid);
    most = std::max(most, scale);
    if (scale < 1) continue;
    most_enlarging = std::max(most_enlarging, scale);
    least_enlarging = std::min(least_enlarging, scale);
  }
  const float chosen = most_enlarging == 0 ? most : recipe.enlarge ? most_enlarging : least_enlarging;
  return *std::find_if(grids.begin(), grids.end(),
                       [&](const TileGrid& grid) { return scale_of(grid) == chosen; });
}

// The largest size of the image's shape within `limits`, at least one pixel each way.
Size within(const Size& image, const Size& limits) {
  const double by_height = static_cast<double>(limits.height) / static_cast<double>(image.height);
  const double by_width = static_cast<double>(limits.width) / static_cast<double>(image.width);
  const auto side = [](int64_t given, double scale, int64_t most) {
    const auto scaled = static_cast<int64_t>(std::floor(static_cast<double>(given) * scale));
    return std::max<int64_t>(1, std::min(scaled, most));
  };
  if (by_width < by_height) return {side(image.height, by_width, limits.height), limits.width};
  return {limits.height, side(image.width, by_height, limits.width)};
}

// Height and width of the image on a canvas of so many pixels.
Size size_on(const Size& canvas, const Size& image, const TileRecipe& recipe) {
  const double longer = static_cast<double>(std::max(image.height, image.width));
  const double scale = static_cast<double>(canvas.height) / longer;
  switch (recipe.fit) {
    case Fit::whole:
    case Fit::aspect: return canvas;
    case Fit::scale: {
      if (recipe.enlarge) return within(image, canvas);
      // No larger than the image or a tile, whichever is larger, nor than the canvas.
      return within(image, {std::min(std::max(image.height, recipe.height), canvas.height),
                            std::min(std::max(image.width, recipe.width), canvas.width)});
    }
    case Fit::corner: {
      const auto side = [&](int64_t given) {
        return std::max(static_cast<int64_t>(static_cast<double>(given) * scale), recipe.min_side);
      };
      if (image.width >= image.height) return {side(image.height), canvas.width};
      return {canvas.height, side(image.width)};
    }
    case Fit::middle: {
      // Ties to even, as Python rounds.
      const auto side = [&](int64_t given) {
        return static_cast<int64_t>(std::nearbyint(static_cast<double>(given) * scale));
      };
      return {side(image.height), side(image.width)};
    }
  }
  throw Error(Kind::internal, "no such fit");
}

int floor_half(int64_t difference) {
  return static_cast<int>(difference >= 0 ? difference / 2 : -((1 - difference) / 2));
}

// The image on all its tiles together; `size` becomes its height and width there.
Image on_canvas(const Image& image, const TileGrid& grid, const TileRecipe& recipe, Size* size) {
  const Size canvas{grid.rows * recipe.height, grid.columns * recipe.width};
  *size = size_on(canvas, {image.height, image.width}, recipe);
  Image picture = resized(image, size->height, size->width, recipe.resample);
  if (size->height == canvas.height && size->width == canvas.width) return picture;
  const bool centred = recipe.fit == Fit::middle;
  Image made = Image::of(canvas.height, canvas.width);
  for (size_t i = 0; i < made.rgb.size(); ++i) made.rgb[i] = recipe.fill[i % 3];
  paste(picture, centred ? floor_half(canvas.width - size->width) : 0,
        centred ? floor_half(canvas.height - size->height) : 0, &made);
  return made;
}

std::string text_of(const TileGrid& grid, const TileRecipe& recipe) {
  const std::string tile = repeated(recipe.token, recipe.features);
  const std::string whole =
      recipe.before_whole + tile + repeated(recipe.token, recipe.separators);
  if (grid.rows == 1 && grid.columns == 1) return whole;
  const std::string row = repeated(tile + recipe.between_columns, grid.columns - 1) + tile +
                          recipe.behind_row;
  return repeated(row, grid.rows) + whole;
}

std::string text_with(const TileGrid& pieces, const TileRecipe& recipe, const CropRecipe& crops) {
  const std::string piece = crops.before + repeated(recipe.token, crops.features) + crops.behind;
  const std::string row = repeated(piece, pieces.columns) + repeated(recipe.token, crops.ends());
  const std::string rows =
      pieces.rows ? repeated(row + crops.between_rows, pieces.rows - 1) + row : "";
  return rows + recipe.before_whole +
         repeated(recipe.token, recipe.features + recipe.separators);
}

// The whole image in one tile, and its pieces, if it has any, before it.
Seen with_crops(const Image& image, const TileRecipe& recipe, const CropRecipe& crops) {
  const Plan plan = plan_of(image.height, image.width, recipe.height, crops);
  const Image picture = squared(image, plan);
  Size size;
  const Image tile = on_canvas(
      resized(picture, plan.whole.height, plan.whole.width, recipe.resample), {1, 1}, recipe, &size);

  Seen seen;
  const Numbers numbers(recipe);
  Array pixels = Array::of(DType::float32, {1, 3, recipe.height, recipe.width});
  numbers.put(tile, 0, 0, {recipe.height, recipe.width}, pixels.as<float>());
  seen.inputs.emplace("pixel_values", std::move(pixels));
  seen.inputs.emplace(kPieces, pieces_of(picture, plan, crops, recipe.resample, numbers));
  // First the text, which is refused where it is too long: there are as many features in it.
  seen.text = text_with(plan.grid, recipe, crops);
  const int64_t of_pieces =
      plan.grid.rows * (plan.grid.columns * crops.features + crops.ends());
  seen.features = of_pieces + recipe.features + recipe.separators;
  Array is_whole = Array::of(DType::boolean, {seen.features});
  std::fill(is_whole.as<uint8_t>() + of_pieces, is_whole.as<uint8_t>() + seen.features, uint8_t(1));
  seen.inputs.emplace("is_whole", std::move(is_whole));
  if (crops.joined) {
    Array grid = Array::of(DType::int64, {1, 2});
    grid.as<int64_t>()[0] = plan.grid.rows;
    grid.as<int64_t>()[1] = plan.grid.columns;
    seen.inputs.emplace("piece_grid", std::move(grid));
  }
  seen.grid = {1, plan.grid.rows, plan.grid.columns};
  return seen;
}

}  // namespace

TileGrid grid_of(int64_t height, int64_t width, const TileRecipe& recipe) {
  switch (recipe.fit) {
    case Fit::aspect:
      return nearest_shape({height, width}, {recipe.height, recipe.width}, recipe.min_tiles,
                           recipe.max_tiles);
    case Fit::scale: return least_shrinking(height, width, recipe);
    default: return {1, 1};
  }
}

Seen tiles_of(const Image& image, const TileRecipe& recipe) {
  refuse_crops(image, recipe);
  if (recipe.crops) return with_crops(image, recipe, *recipe.crops);
  const TileGrid grid = grid_of(image.height, image.width, recipe);
  Size size;
  const Image canvas = on_canvas(image, grid, recipe, &size);
  const bool is_cut = grid.rows * grid.columns > 1;
  const int64_t tiles = grid.rows * grid.columns + (is_cut ? 1 : 0);
  const Size tile{recipe.height, recipe.width};

  Seen seen;
  const Numbers numbers(recipe);
  Array pixels = Array::of(DType::float32, {tiles, 3, recipe.height, recipe.width});
  float* to = pixels.as<float>();
  for (int64_t row = 0; row < grid.rows; ++row)
    for (int64_t column = 0; column < grid.columns; ++column)
      to = numbers.put(canvas, row * recipe.height, column * recipe.width, tile, to);
  if (is_cut) numbers.put(resized(image, tile.height, tile.width, recipe.resample), 0, 0, tile, to);
  seen.inputs.emplace("pixel_values", std::move(pixels));
  if (recipe.masked) {
    Array mask = Array::of(DType::boolean, {1, recipe.height, recipe.width});
    for (int64_t y = 0; y < std::min(size.height, recipe.height); ++y) {
      std::memset(mask.as<uint8_t>() + y * recipe.width, 1,
                  static_cast<size_t>(std::min(size.width, recipe.width)));
    }
    seen.inputs.emplace("pixel_mask", std::move(mask));
  }
  seen.text = text_of(grid, recipe);
  seen.features = tiles * recipe.features + recipe.separators;
  seen.grid = {1, grid.rows, grid.columns};
  return seen;
}

}  // namespace moe::runtime
