#include "image/fitted.h"

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

// The least multiple of `unit` from `side` on, or the last below where that is above `most`.
int64_t whole_within(int64_t side, int64_t unit, int64_t most) {
  const int64_t above = up_to(side, unit);
  return above <= most || above == side ? above : std::max(unit, above - unit);
}

Size within_count(int64_t height, int64_t width, const PatchRecipe& recipe) {
  const int64_t patch = recipe.patch_size, merge = recipe.merge_size;
  const int64_t least = recipe.min_pixels / (patch * patch);
  const int64_t most = recipe.max_pixels / (patch * patch);
  // Ties go to even: what is whole already gets one more where it is odd.
  const auto patches = [&](int64_t side) {
    return whole(std::nearbyint(static_cast<double>(side) / static_cast<double>(patch) + 0.5));
  };
  int64_t tall = patches(height), wide = patches(width);
  const auto scaled = [&](int64_t count) {
    return std::sqrt(static_cast<double>(count) / static_cast<double>(tall * wide));
  };
  const double shrink = std::min(scaled(most), 1.0);
  tall = whole(std::floor(shrink * static_cast<double>(tall)));
  wide = whole(std::floor(shrink * static_cast<double>(wide)));
  if (tall < 1 || wide < 1) refuse_thin(height, width);
  if (tall * wide < least && least < most) {
    const double grow = scaled(least);
    tall = whole(std::ceil(grow * static_cast<double>(tall)));
    wide = whole(std::ceil(grow * static_cast<double>(wide)));
  }
  tall = whole_within(tall, merge, most / wide);
  wide = whole_within(wide, merge, most / tall);
  return {tall * patch, wide * patch};
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
    case PatchRecipe::Fit::count: made = within_count(height, width, recipe); break;
    case PatchRecipe::Fit::pad: made = {height, width}; break;
  }
  if (made.height > kMaxPixels || made.width > kMaxPixels ||
      made.height * made.width > kMaxPixels) {
    throw Error(Kind::unsafe, "the recipe makes an image of " + std::to_string(made.height) +
                                  " x " + std::to_string(made.width) + " pixels");
  }
  return made;
}

Size canvas_of(int64_t height, int64_t width, const PatchRecipe& recipe) {
  if (recipe.fit == PatchRecipe::Fit::canvas) return least_canvas(height, width, recipe);
  const Size size = fitted(height, width, recipe);
  return {up_to(size.height, recipe.unit()), up_to(size.width, recipe.unit())};
}

}  // namespace moe::runtime
