#include "image/patches.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"

namespace moe::runtime {

namespace {

// The numbers of a picture, [height, width, 3].
struct Picture {
  int64_t height, width;
  std::vector<float> numbers;

  Picture(int64_t tall, int64_t broad) : height(tall), width(broad) {
    if (tall > kMaxPixels / broad) {
      throw Error(Kind::unsafe, "the recipe makes an image of " + std::to_string(tall) + " x " +
                                    std::to_string(broad) + " pixels");
    }
    numbers.resize(static_cast<size_t>(tall * broad * 3));
  }
  float* row(int64_t y) { return numbers.data() + y * width * 3; }
  const float* row(int64_t y) const { return numbers.data() + y * width * 3; }
};

// The image in the corner of a picture of the size of `canvas`, with what a byte of -1 would become
// on the right and below.
Picture laid_out(const Image& image, const Size& canvas, const Numbers& numbers) {
  Picture made(canvas.height, canvas.width);
  for (int64_t y = 0; y < made.height; ++y) {
    const bool is_inside = y < image.height;
    const uint8_t* from = is_inside ? image.row(static_cast<int>(y)) : nullptr;
    const int64_t inside = is_inside ? std::min<int64_t>(image.width, made.width) * 3 : 0;
    float* to = made.row(y);
    for (int64_t i = 0; i < made.width * 3; ++i) {
      const int channel = static_cast<int>(i % 3);
      to[i] = i < inside ? numbers.of(from[i], channel) : numbers.below(channel);
    }
  }
  return made;
}

// The image in a size of whole units; black on the right and below where it was not, but for `pad`.
Picture prepared(const Image& image, const PatchRecipe& recipe, const Numbers& numbers) {
  const Size size = fitted(image.height, image.width, recipe);
  const Size canvas = canvas_of(image.height, image.width, recipe);
  if (recipe.fit == PatchRecipe::Fit::count) {
    Picture made(size.height, size.width);
    made.numbers = resampled(image, size.height, size.width, recipe.resample);
    for (size_t i = 0; i < made.numbers.size(); ++i) {
      made.numbers[i] = numbers.between(made.numbers[i], static_cast<int>(i % 3));
    }
    return made;
  }
  if (recipe.fit == PatchRecipe::Fit::pad) {
    if (image.alpha.empty()) return laid_out(image, canvas, numbers);
    return laid_out(over_chequers(image), canvas, numbers);
  }
  Image made = resized(image, size.height, size.width, recipe.resample);
  if (canvas.height != size.height || canvas.width != size.width) {
    Image whole_units = Image::of(canvas.height, canvas.width);
    paste(made, 0, 0, &whole_units);
    made = std::move(whole_units);
  }
  return laid_out(made, canvas, numbers);
}

// Calls visit(row, column) for the patches of a grid, those of one feature behind one another.
template <typename Visit>
void by_block(int64_t rows, int64_t columns, int64_t merge, Visit visit) {
  for (int64_t block_row = 0; block_row < rows; block_row += merge)
    for (int64_t block_column = 0; block_column < columns; block_column += merge)
      for (int64_t row = 0; row < merge; ++row)
        for (int64_t column = 0; column < merge; ++column)
          visit(block_row + row, block_column + column);
}

// One channel of one patch, row by row.
float* put_channel(const Picture& picture, int64_t patch, int64_t row, int64_t column, int channel,
                   float* to) {
  for (int64_t y = row * patch; y < (row + 1) * patch; ++y) {
    const float* from = picture.row(y) + column * patch * 3 + channel;
    for (int64_t x = 0; x < patch; ++x, from += 3) *to++ = *from;
  }
  return to;
}

// Calls visit(row, column) for the patches of a grid, row by row.
template <typename Visit>
void by_row(int64_t rows, int64_t columns, Visit visit) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) visit(row, column);
}

// Flat patches, those of one feature behind one another or row by row.
Array flat(const Picture& picture, const PatchRecipe& recipe) {
  const int64_t patch = recipe.patch_size, time = recipe.temporal_patch_size;
  const int64_t rows = picture.height / patch, columns = picture.width / patch;
  Array made = Array::of(DType::float32, {rows * columns, 3 * time * patch * patch});
  float* to = made.as<float>();
  const auto put = [&](int64_t row, int64_t column) {
    for (int channel = 0; channel < 3; ++channel) {
      const float* once = to;
      to = put_channel(picture, patch, row, column, channel, to);
      for (int64_t i = 1; i < time; ++i) to = std::copy(once, once + patch * patch, to);
    }
  };
  if (recipe.layout == PatchRecipe::Layout::blocks) {
    by_block(rows, columns, recipe.merge_size, put);
  } else {
    by_row(rows, columns, put);
  }
  return made;
}

// Patches row by row, all channels of one once for every time.
Array repeated_squares(const Picture& picture, const PatchRecipe& recipe) {
  const int64_t patch = recipe.patch_size, time = recipe.temporal_patch_size;
  const int64_t rows = picture.height / patch, columns = picture.width / patch;
  const int64_t size = 3 * patch * patch;
  Array made = Array::of(DType::float32, {rows * columns, time * size});
  float* to = made.as<float>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const float* once = to;
      for (int channel = 0; channel < 3; ++channel)
        to = put_channel(picture, patch, row, column, channel, to);
      for (int64_t i = 1; i < time; ++i) to = std::copy(once, once + size, to);
    }
  }
  return made;
}

Array squares(const Picture& picture, const PatchRecipe& recipe) {
  const int64_t patch = recipe.patch_size;
  const int64_t rows = picture.height / patch, columns = picture.width / patch;
  Array made = Array::of(DType::float32, {rows * columns, 3, patch, patch});
  float* to = made.as<float>();
  by_row(rows, columns, [&](int64_t row, int64_t column) {
    for (int channel = 0; channel < 3; ++channel)
      to = put_channel(picture, patch, row, column, channel, to);
  });
  return made;
}

// Patches with the column and row of each, padded to the most there may be.
void put_places(const Picture& picture, const PatchRecipe& recipe,
                std::map<std::string, Array>* inputs) {
  const int64_t patch = recipe.patch_size, most = recipe.max_pixels / (patch * patch);
  const int64_t rows = picture.height / patch, columns = picture.width / patch;
  if (rows * columns > most) {
    throw Error(Kind::unsafe, "the recipe makes " + std::to_string(rows * columns) +
                                  " patches of an image, and has places for " +
                                  std::to_string(most));
  }
  Array pixels = Array::of(DType::float32, {1, most, patch * patch * 3});
  Array places = Array::of(DType::int64, {1, most, 2});
  std::fill_n(places.as<int64_t>(), most * 2, int64_t(-1));
  float* to = pixels.as<float>();
  int64_t* place = places.as<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      *place++ = column;
      *place++ = row;
      for (int64_t y = row * patch; y < (row + 1) * patch; ++y) {
        const float* from = picture.row(y) + column * patch * 3;
        to = std::copy(from, from + patch * 3, to);
      }
    }
  }
  inputs->emplace("pixel_values", std::move(pixels));
  inputs->emplace("image_position_ids", std::move(places));
}

// Patches of the image, and of what lies around it, each as often as there are times.
Seen in_cells(const Image& image, const PatchRecipe& recipe) {
  const Size size = fitted(image.height, image.width, recipe);
  const Image values = resized(image, size.height, size.width, recipe.resample);
  const int64_t side = recipe.patch_size, time = recipe.temporal_patch_size;
  Seen seen;
  seen.grid = {1, (size.height + side - 1) / side, size.width / side + 1};
  seen.features = seen.grid[1] * seen.grid[2];
  seen.text = repeated(recipe.token, seen.features);
  check_numbers(time, seen.features * side * side * 3);
  const Picture picture =
      laid_out(values, {seen.grid[1] * side, seen.grid[2] * side}, Numbers(recipe));
  Array pixels = Array::of(DType::float32, {seen.features, time, side, side, 3});
  float* to = pixels.as<float>();
  by_row(seen.grid[1], seen.grid[2], [&](int64_t row, int64_t column) {
    const float* once = to;
    for (int64_t y = row * side; y < (row + 1) * side; ++y) {
      const float* from = picture.row(y) + column * side * 3;
      to = std::copy(from, from + side * 3, to);
    }
    for (int64_t i = 1; i < time; ++i) to = std::copy(once, once + side * side * 3, to);
  });
  seen.inputs.emplace("pixel_values", std::move(pixels));
  return seen;
}

}  // namespace

Seen patches_of(const Image& image, const PatchRecipe& recipe) {
  if (recipe.layout == PatchRecipe::Layout::cells) return in_cells(image, recipe);
  const Picture picture = prepared(image, recipe, Numbers(recipe));
  Seen seen;
  seen.grid = {1, picture.height / recipe.patch_size, picture.width / recipe.patch_size};
  const int64_t rows = seen.grid[1] / recipe.merge_size, columns = seen.grid[2] / recipe.merge_size;
  const int64_t in_row = columns + recipe.newline;
  seen.features = rows * in_row;
  seen.text = repeated(recipe.token, seen.features);
  if (rows > 1 && !recipe.between_rows.empty()) {
    const std::string row = repeated(recipe.token, in_row);
    seen.text = repeated(row + recipe.between_rows, rows - 1) + row;
  }
  const int64_t numbers = static_cast<int64_t>(picture.numbers.size());
  const bool repeats = recipe.layout == PatchRecipe::Layout::blocks ||
                       recipe.layout == PatchRecipe::Layout::flat_rows ||
                       recipe.layout == PatchRecipe::Layout::times;
  const int64_t time = repeats ? recipe.temporal_patch_size : 1;
  check_numbers(time, numbers);
  switch (recipe.layout) {
    case PatchRecipe::Layout::blocks:
    case PatchRecipe::Layout::flat_rows:
      seen.inputs.emplace("pixel_values", flat(picture, recipe));
      break;
    case PatchRecipe::Layout::rows:
      seen.inputs.emplace("pixel_values", squares(picture, recipe));
      break;
    case PatchRecipe::Layout::times:
      seen.inputs.emplace("pixel_values", repeated_squares(picture, recipe));
      break;
    case PatchRecipe::Layout::cells:
    case PatchRecipe::Layout::places: put_places(picture, recipe, &seen.inputs); return seen;
  }
  Array grid = Array::of(DType::int64, {1, 3});
  std::copy(seen.grid.begin(), seen.grid.end(), grid.as<int64_t>());
  seen.inputs.emplace("image_grid_thw", std::move(grid));
  return seen;
}

}  // namespace moe::runtime
