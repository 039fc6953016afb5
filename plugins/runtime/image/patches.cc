#include "image/patches.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"

namespace moe::runtime {

namespace {

// What is longer than this has no size that fits the model's limits and its own shape.
constexpr int64_t kMaxAspect = 200;

int64_t whole(double value) {
  // Beyond every size; what is no number or infinite came of sizes that no image has.
  constexpr double kBeyond = 1LL << 40;
  return static_cast<int64_t>(value < kBeyond ? value : kBeyond);
}

Size near_area(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const int64_t unit = recipe.unit();
  const double area = static_cast<double>(height * width);
  const double sides[2] = {static_cast<double>(height), static_cast<double>(width)};
  int64_t made[2];
  // Ties to even, as Python rounds.
  for (int i = 0; i < 2; ++i) made[i] = whole(std::nearbyint(sides[i] / unit)) * unit;
  if (made[0] * made[1] > recipe.max_pixels) {
    const double shrink = std::sqrt(area / recipe.max_pixels);
    for (int i = 0; i < 2; ++i) {
      made[i] = std::max<int64_t>(1, whole(std::floor(sides[i] / shrink / unit))) * unit;
    }
  } else if (made[0] * made[1] < recipe.min_pixels) {
    const double grow = std::sqrt(recipe.min_pixels / area);
    for (int i = 0; i < 2; ++i) made[i] = whole(std::ceil(sides[i] * grow / unit)) * unit;
  }
  return {made[0], made[1]};
}

Size shrunk(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const int64_t most = recipe.max_side.value_or(std::max(height, width));
  const int64_t patch = recipe.patch_size;
  const int64_t patches =
      std::max<int64_t>(1, height / patch) * std::max<int64_t>(1, width / patch);
  const double by_area =
      std::sqrt(static_cast<double>(recipe.max_pixels / (patch * patch)) / patches);
  const double scale = std::min({1.0, by_area, static_cast<double>(most) / height,
                                 static_cast<double>(most) / width});
  const auto side = [&](int64_t given) {
    return std::min(std::max<int64_t>(1, whole(given * scale)), most);
  };
  return {side(height), side(width)};
}

Size filling(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const int64_t unit = recipe.unit();
  const double scale = std::sqrt(recipe.max_pixels / static_cast<double>(height * width));
  int64_t tall = whole(std::floor(scale * height / unit));
  int64_t wide = whole(std::floor(scale * width / unit));
  const int64_t most = recipe.max_pixels / (unit * unit);
  if (tall == 0 && wide == 0) {
    throw Error(Kind::usage, "the image is " + std::to_string(height) + " x " +
                                 std::to_string(width) + " pixels, for which there is no size");
  }
  if (tall == 0) {
    tall = 1;
    wide = std::min(width / height, most);
  } else if (wide == 0) {
    wide = 1;
    tall = std::min(height / width, most);
  }
  return {tall * unit, wide * unit};
}

// The least multiple of `unit` that is no less than `side`.
int64_t up_to(int64_t side, int64_t unit) { return (side + unit - 1) / unit * unit; }

Size to_edge(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const double longer = static_cast<double>(std::max(height, width));
  const double ratio = std::max(1.0, longer / recipe.max_side.value_or(std::max(height, width)));
  return {up_to(whole(std::floor(height / ratio)), recipe.unit()),
          up_to(whole(std::floor(width / ratio)), recipe.unit())};
}

Size zoomed(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const int64_t longer = std::max(height, width);
  const double most = static_cast<double>(std::max(recipe.max_side.value_or(longer), longer));
  const double target = std::min(longer * recipe.zoom.value_or(1.0), most);
  const auto side = [&](int64_t given) {
    return whole(std::floor(given * (target / longer) + 0.5));
  };
  return {side(height), side(width)};
}

// The canvas of whole units for an image that is put on one as it is or in its own shape.
Size least_canvas(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const int64_t unit = recipe.unit();
  Size made{up_to(height, unit), up_to(width, unit)};
  if (made.height * made.width < recipe.min_pixels) {
    const double grow = std::sqrt(recipe.min_pixels / static_cast<double>(height * width));
    const auto side = [&](int64_t given) {
      return up_to(std::max<int64_t>(1, whole(std::ceil(given * grow))), unit);
    };
    made = {side(height), side(width)};
  }
  if (made.height * made.width <= recipe.max_pixels) return made;
  Size best{unit, unit};
  int64_t low = 1, high = height;
  while (low <= high) {  // the tallest that fits, in its own shape
    const int64_t middle = (low + high) / 2;
    made = {up_to(middle, unit), up_to(std::max<int64_t>(1, width * middle / height), unit)};
    if (made.height * made.width <= recipe.max_pixels) {
      best = made;
      low = middle + 1;
    } else {
      high = middle - 1;
    }
  }
  return best;
}

Size on_canvas(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const Size canvas = least_canvas(height, width, recipe);
  double scale = std::min(static_cast<double>(canvas.height) / height,
                          static_cast<double>(canvas.width) / width);
  if (height * width >= recipe.min_pixels) scale = std::min(1.0, scale);
  const auto side = [&](int64_t given, int64_t most) {
    return std::max<int64_t>(1, std::min(most, whole(std::floor(given * scale))));
  };
  return {side(height, canvas.height), side(width, canvas.width)};
}

// Sizes in the order in which a set of CPython gives them as pairs of numbers, to which they were
// added one by one: four or fewer, for which its table has eight places.
class SetOfSizes {
 public:
  void add(int64_t height, int64_t width) {
    const uint64_t hash = hash_of(static_cast<uint64_t>(height), static_cast<uint64_t>(width));
    uint64_t place = hash % kPlaces, more = hash;
    while (taken_[place]) {
      if (sizes_[place].height == height && sizes_[place].width == width) return;
      more >>= 5;
      place = (place * 5 + 1 + more) % kPlaces;
    }
    taken_[place] = true;
    sizes_[place] = {height, width};
  }

  template <typename Visit>
  void in_order(Visit visit) const {
    for (uint64_t place = 0; place < kPlaces; ++place)
      if (taken_[place]) visit(sizes_[place]);
  }

 private:
  static constexpr uint64_t kPlaces = 8;

  // Of a tuple of two: xxHash, with the two as its lanes (CPython, Objects/tupleobject.c).
  static uint64_t hash_of(uint64_t first, uint64_t second) {
    constexpr uint64_t kOne = 11400714785074694791u, kTwo = 14029467366897019727u,
                       kFive = 2870177450012600261u;
    uint64_t made = kFive;
    for (const uint64_t lane : {first, second}) {
      made += lane * kTwo;
      made = (made << 31 | made >> 33) * kOne;
    }
    return made + (2 ^ (kFive ^ 3527539u));
  }

  std::array<Size, kPlaces> sizes_{};
  std::array<bool, kPlaces> taken_{};
};

Size near_shape(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const int64_t unit = recipe.unit(), most = recipe.max_pixels / (unit * unit);
  const double shape = static_cast<double>(height) / static_cast<double>(width);
  double tall = static_cast<double>(height) / static_cast<double>(unit);
  double wide = static_cast<double>(width) / static_cast<double>(unit);
  const double ratio = wide / tall;
  if (tall * wide > static_cast<double>(most)) {
    tall = std::pow(static_cast<double>(most) / ratio, 0.5);
    wide = tall * ratio;
  }
  SetOfSizes near;
  for (const double high : {std::floor(tall), std::ceil(tall)})
    for (const double broad : {std::floor(wide), std::ceil(wide)})
      near.add(whole(high), whole(broad));
  Size best{0, 0};
  double least = 0;
  near.in_order([&](const Size& size) {
    if (size.height < 1 || size.width < 1 || size.height * size.width > most) return;
    const double apart =
        std::abs(static_cast<double>(size.height) / static_cast<double>(size.width) - shape);
    if (best.height > 0 && apart >= least) return;
    best = size;
    least = apart;
  });
  if (best.height == 0) {
    // Ties to even, as Python rounds.
    best = {std::max<int64_t>(1, whole(std::nearbyint(tall))),
            std::max<int64_t>(1, whole(std::nearbyint(wide)))};
  }
  return {best.height * unit, best.width * unit};
}

// The whole units around an image that is resized to `size`.
Size canvas_of(const Image& image, const Size& size, const PatchRecipe& recipe) {
  if (recipe.fit == PatchRecipe::Fit::canvas) {
    return least_canvas(image.height, image.width, recipe);
  }
  return {up_to(size.height, recipe.unit()), up_to(size.width, recipe.unit())};
}

// The image in a size of whole units, black on the right and below where it was not.
Image prepared(const Image& image, const PatchRecipe& recipe) {
  const Size size = fitted(image.height, image.width, recipe);
  const Size canvas = canvas_of(image, size, recipe);
  Image made = resized(image, size.height, size.width, recipe.resample);
  if (canvas.height == size.height && canvas.width == size.width) return made;
  Image whole_units = Image::of(canvas.height, canvas.width);
  paste(made, 0, 0, &whole_units);
  return whole_units;
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
float* put_channel(const Image& image, const Numbers& numbers, int64_t patch, int64_t row,
                   int64_t column, int channel, float* to) {
  for (int64_t y = row * patch; y < (row + 1) * patch; ++y) {
    const uint8_t* from = image.row(static_cast<int>(y)) + column * patch * 3 + channel;
    for (int64_t x = 0; x < patch; ++x, from += 3) *to++ = numbers.of(*from, channel);
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
Array flat(const Image& image, const Numbers& numbers, const PatchRecipe& recipe) {
  const int64_t patch = recipe.patch_size, time = recipe.temporal_patch_size;
  const int64_t rows = image.height / patch, columns = image.width / patch;
  Array made = Array::of(DType::float32, {rows * columns, 3 * time * patch * patch});
  float* to = made.as<float>();
  const auto put = [&](int64_t row, int64_t column) {
    for (int channel = 0; channel < 3; ++channel) {
      const float* once = to;
      to = put_channel(image, numbers, patch, row, column, channel, to);
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
Array repeated_squares(const Image& image, const Numbers& numbers, const PatchRecipe& recipe) {
  const int64_t patch = recipe.patch_size, time = recipe.temporal_patch_size;
  const int64_t rows = image.height / patch, columns = image.width / patch;
  const int64_t size = 3 * patch * patch;
  Array made = Array::of(DType::float32, {rows * columns, time * size});
  float* to = made.as<float>();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const float* once = to;
      for (int channel = 0; channel < 3; ++channel)
        to = put_channel(image, numbers, patch, row, column, channel, to);
      for (int64_t i = 1; i < time; ++i) to = std::copy(once, once + size, to);
    }
  }
  return made;
}

Array squares(const Image& image, const Numbers& numbers, const PatchRecipe& recipe) {
  const int64_t patch = recipe.patch_size;
  const int64_t rows = image.height / patch, columns = image.width / patch;
  Array made = Array::of(DType::float32, {rows * columns, 3, patch, patch});
  float* to = made.as<float>();
  by_row(rows, columns, [&](int64_t row, int64_t column) {
    for (int channel = 0; channel < 3; ++channel)
      to = put_channel(image, numbers, patch, row, column, channel, to);
  });
  return made;
}

// Patches with the column and row of each, padded to the most there may be.
void put_places(const Image& image, const Numbers& numbers, const PatchRecipe& recipe,
                std::map<std::string, Array>* inputs) {
  const int64_t patch = recipe.patch_size, most = recipe.max_pixels / (patch * patch);
  const int64_t rows = image.height / patch, columns = image.width / patch;
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
        const uint8_t* from = image.row(static_cast<int>(y)) + column * patch * 3;
        for (int64_t i = 0; i < patch * 3; ++i) *to++ = numbers.of(from[i], static_cast<int>(i % 3));
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
  const Numbers numbers(recipe);
  const int64_t side = recipe.patch_size, time = recipe.temporal_patch_size;
  Seen seen;
  seen.grid = {1, (size.height + side - 1) / side, size.width / side + 1};
  seen.features = seen.grid[1] * seen.grid[2];
  seen.text = repeated(recipe.token, seen.features);
  check_numbers(time, seen.features * side * side * 3);
  Array pixels = Array::of(DType::float32, {seen.features, time, side, side, 3});
  float* to = pixels.as<float>();
  by_row(seen.grid[1], seen.grid[2], [&](int64_t row, int64_t column) {
    const float* once = to;
    for (int64_t y = row * side; y < (row + 1) * side; ++y) {
      for (int64_t x = column * side; x < (column + 1) * side; ++x) {
        const bool is_inside = y < size.height && x < size.width;
        const uint8_t* from = is_inside ? values.row(static_cast<int>(y)) + x * 3 : nullptr;
        for (int channel = 0; channel < 3; ++channel) {
          *to++ = is_inside ? numbers.of(from[channel], channel) : numbers.below(channel);
        }
      }
    }
    for (int64_t i = 1; i < time; ++i) to = std::copy(once, once + side * side * 3, to);
  });
  seen.inputs.emplace("pixel_values", std::move(pixels));
  return seen;
}

}  // namespace

Size fitted(int64_t height, int64_t width, const PatchRecipe& recipe) {
  if (std::max(height, width) > kMaxAspect * std::min(height, width)) {
    refuse_thin(height, width);
  }
  Size made;
  switch (recipe.fit) {
    case PatchRecipe::Fit::area: made = near_area(height, width, recipe); break;
    case PatchRecipe::Fit::shrink: made = shrunk(height, width, recipe); break;
    case PatchRecipe::Fit::fill: made = filling(height, width, recipe); break;
    case PatchRecipe::Fit::canvas: made = on_canvas(height, width, recipe); break;
    case PatchRecipe::Fit::zoom: made = zoomed(height, width, recipe); break;
    case PatchRecipe::Fit::edge: made = to_edge(height, width, recipe); break;
    case PatchRecipe::Fit::shape: made = near_shape(height, width, recipe); break;
  }
  if (made.height > kMaxPixels || made.width > kMaxPixels ||
      made.height * made.width > kMaxPixels) {
    throw Error(Kind::unsafe, "the recipe makes an image of " + std::to_string(made.height) +
                                  " x " + std::to_string(made.width) + " pixels");
  }
  return made;
}

Seen patches_of(const Image& image, const PatchRecipe& recipe) {
  if (recipe.layout == PatchRecipe::Layout::cells) return in_cells(image, recipe);
  const Image values = prepared(image, recipe);
  const Numbers numbers(recipe);
  Seen seen;
  seen.grid = {1, values.height / recipe.patch_size, values.width / recipe.patch_size};
  const int64_t rows = seen.grid[1] / recipe.merge_size, columns = seen.grid[2] / recipe.merge_size;
  const int64_t in_row = columns + recipe.newline;
  seen.features = rows * in_row;
  seen.text = repeated(recipe.token, seen.features);
  if (rows > 1 && !recipe.between_rows.empty()) {
    const std::string row = repeated(recipe.token, in_row);
    seen.text = repeated(row + recipe.between_rows, rows - 1) + row;
  }
  const int64_t pixels = static_cast<int64_t>(values.rgb.size());
  const bool repeats = recipe.layout == PatchRecipe::Layout::blocks ||
                       recipe.layout == PatchRecipe::Layout::flat_rows ||
                       recipe.layout == PatchRecipe::Layout::times;
  const int64_t time = repeats ? recipe.temporal_patch_size : 1;
  check_numbers(time, pixels);
  switch (recipe.layout) {
    case PatchRecipe::Layout::blocks:
    case PatchRecipe::Layout::flat_rows:
      seen.inputs.emplace("pixel_values", flat(values, numbers, recipe));
      break;
    case PatchRecipe::Layout::rows:
      seen.inputs.emplace("pixel_values", squares(values, numbers, recipe));
      break;
    case PatchRecipe::Layout::times:
      seen.inputs.emplace("pixel_values", repeated_squares(values, numbers, recipe));
      break;
    case PatchRecipe::Layout::cells:
    case PatchRecipe::Layout::places: put_places(values, numbers, recipe, &seen.inputs); return seen;
  }
  Array grid = Array::of(DType::int64, {1, 3});
  std::copy(seen.grid.begin(), seen.grid.end(), grid.as<int64_t>());
  seen.inputs.emplace("image_grid_thw", std::move(grid));
  return seen;
}

}  // namespace moe::runtime
