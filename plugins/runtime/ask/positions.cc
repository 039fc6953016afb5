#include "ask/positions.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "core/error.h"

namespace moe::runtime {

Array plain_positions(int64_t start, int64_t count) {
  Array made = Array::of(DType::int64, {1, count});
  std::iota(made.as<int64_t>(), made.as<int64_t>() + count, start);
  return made;
}

Array mrope_positions(const std::vector<int64_t>& ids, int64_t image_token,
                      const std::vector<std::array<int64_t, 3>>& grids, int64_t merge,
                      bool newline) {
  const auto count = static_cast<int64_t>(ids.size());
  Array made = Array::of(DType::int64, {3, 1, count});
  int64_t* time = made.as<int64_t>();
  int64_t* row = time + count;
  int64_t* column = row + count;
  int64_t start = 0, place = 0;
  size_t image = 0;
  while (place < count) {
    if (ids[static_cast<size_t>(place)] != image_token) {
      time[place] = row[place] = column[place] = start;
      ++start, ++place;
      continue;
    }
    if (image == grids.size()) {
      throw Error(Kind::usage, "the prompt holds features of more images than " +
                                   std::to_string(grids.size()));
    }
    const auto [times, height, width] = grids[image++];
    const int64_t rows = height / merge, columns = width / merge + newline;
    const int64_t features = times * rows * columns;
    if (features > count - place) {
      throw Error(Kind::usage, "the prompt holds less than the features of an image");
    }
    for (int64_t i = 0; i < features; ++i, ++place) {
      time[place] = start + i / (rows * columns);
      row[place] = start + i / columns % rows;
      column[place] = start + i % columns;
    }
    start += std::max(rows, columns);
  }
  return made;
}

}  // namespace moe::runtime
