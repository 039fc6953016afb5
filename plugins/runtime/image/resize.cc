#include "image/resize.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace moe::runtime {

namespace {

// A byte, and two bits more: weights may be negative and sum to more than one.
constexpr int kDigits = 32 - 8 - 2;
// Weights take six numbers for each old pixel of a side.
constexpr int64_t kMaxSide = int64_t(1) << 22;
constexpr double kPi = 3.14159265358979323846;

double bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// Cubic convolution with a = -1/2, https://en.wikipedia.org/wiki/Bicubic_interpolation.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  x *= kPi;
  return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Filter {
  double (*at)(double);
  double support;  // zero from here on, in pixels of the smaller image
};

Filter filter_of(Resample how) {
  switch (how) {
    case Resample::bilinear: return {bilinear, 1.0};
    case Resample::bicubic: return {bicubic, 2.0};
    case Resample::lanczos: return {lanczos, 3.0};
  }
  throw Error(Kind::internal, "no such filter");
}

// For each new pixel: where its old pixels begin, how many they are, and the weight of each.
template <typename Number>
struct Weights {
  size_t most;
  std::vector<int> first, count;
  std::vector<Number> weight;  // [new size, most]
};

// centre(i) is the place of new pixel i among the old ones, each of which is `scale` new ones wide;
// stored(share) is how a share is kept.
template <typename Number, typename Centre, typename Stored>
Weights<Number> shares_of(int old_size, int new_size, const Filter& filter, double scale,
                          Centre centre_of, Stored stored) {
  const double wide = std::max(scale, 1.0);
  const double support = filter.support * wide;
  const double narrow = 1.0 / wide;
  Weights<Number> made;
  made.most = static_cast<size_t>(std::ceil(support)) * 2 + 1;
  made.first.resize(size_t(new_size));
  made.count.resize(size_t(new_size));
  made.weight.resize(size_t(new_size) * made.most);
  std::vector<double> exact(made.most);
  for (int i = 0; i < new_size; ++i) {
    const double centre = centre_of(i);
    // Both truncate, which rounds what is positive.
    const int first = std::max(0, static_cast<int>(centre - support + 0.5));
    const int count = std::min(old_size, static_cast<int>(centre + support + 0.5)) - first;
    double sum = 0.0;
    for (int k = 0; k < count; ++k) {
      exact[size_t(k)] = filter.at((k + first - centre + 0.5) * narrow);
      sum += exact[size_t(k)];
    }
    for (int k = 0; k < count; ++k) {
      const double share = sum != 0.0 ? exact[size_t(k)] / sum : exact[size_t(k)];
      made.weight[size_t(i) * made.most + size_t(k)] = stored(share);
    }
    made.first[size_t(i)] = first;
    made.count[size_t(i)] = count;
  }
  return made;
}

// As Pillow has them, in whole numbers.
Weights<int32_t> weights_of(int old_size, int new_size, const Filter& filter) {
  const double scale = static_cast<double>(static_cast<float>(old_size)) / new_size;
  return shares_of<int32_t>(
      old_size, new_size, filter, scale, [&](int i) { return (i + 0.5) * scale; },
      [](double share) {
        const double whole = share * (1 << kDigits);
        return static_cast<int32_t>(share < 0 ? whole - 0.5 : whole + 0.5);
      });
}

uint8_t to_byte(int32_t sum) {
  return static_cast<uint8_t>(std::min(std::max(sum >> kDigits, 0), 255));
}

constexpr int32_t kHalf = 1 << (kDigits - 1);

Image along_rows(const Image& image, int width, const Filter& filter) {
  const Weights<int32_t> weights = weights_of(image.width, width, filter);
  Image made = Image::of(image.height, width);
  for (int y = 0; y < image.height; ++y) {
    const uint8_t* from = image.row(y);
    uint8_t* to = made.row(y);
    for (int x = 0; x < width; ++x, to += 3) {
      const int32_t* weight = &weights.weight[size_t(x) * weights.most];
      const uint8_t* pixel = from + size_t(weights.first[size_t(x)]) * 3;
      int32_t red = kHalf, green = kHalf, blue = kHalf;
      for (int k = 0; k < weights.count[size_t(x)]; ++k, pixel += 3) {
        red += pixel[0] * weight[k];
        green += pixel[1] * weight[k];
        blue += pixel[2] * weight[k];
      }
      to[0] = to_byte(red);
      to[1] = to_byte(green);
      to[2] = to_byte(blue);
    }
  }
  return made;
}

Image along_columns(const Image& image, int height, const Filter& filter) {
  const Weights<int32_t> weights = weights_of(image.height, height, filter);
  Image made = Image::of(height, image.width);
  const size_t numbers = size_t(image.width) * 3;
  std::vector<int32_t> sums(numbers);
  for (int y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int k = 0; k < weights.count[size_t(y)]; ++k) {
      const int32_t weight = weights.weight[size_t(y) * weights.most + size_t(k)];
      const uint8_t* from = image.row(weights.first[size_t(y)] + k);
      for (size_t i = 0; i < numbers; ++i) sums[i] += from[i] * weight;
    }
    uint8_t* to = made.row(y);
    for (size_t i = 0; i < numbers; ++i) to[i] = to_byte(sums[i]);
  }
  return made;
}

// As PyTorch has them: scales and places in float32, and the rest in double.
Weights<float> float_weights_of(int old_size, int new_size, const Filter& filter) {
  const double scale = static_cast<float>(old_size) / static_cast<float>(new_size);
  return shares_of<float>(
      old_size, new_size, filter, scale,
      [&](int i) -> double { return static_cast<float>(scale * (i + 0.5)); },
      [](double share) { return static_cast<float>(share); });
}

// `rows` rows of old_size cells of `numbers` numbers each, as rows of new_size cells.
std::vector<float> along(const std::vector<float>& from, size_t rows, int old_size, int new_size,
                         size_t numbers, const Filter& filter) {
  if (old_size == new_size) return from;
  const Weights<float> weights = float_weights_of(old_size, new_size, filter);
  std::vector<float> made(rows * size_t(new_size) * numbers);
  for (size_t row = 0; row < rows; ++row) {
    const float* line = from.data() + row * size_t(old_size) * numbers;
    float* to = made.data() + row * size_t(new_size) * numbers;
    for (size_t i = 0; i < size_t(new_size); ++i, to += numbers) {
      const float* cell = line + size_t(weights.first[i]) * numbers;
      for (int k = 0; k < weights.count[i]; ++k, cell += numbers) {
        const float weight = weights.weight[i * weights.most + size_t(k)];
        for (size_t n = 0; n < numbers; ++n) to[n] += cell[n] * weight;
      }
    }
  }
  return made;
}

[[noreturn]] void refuse(const Image& image, int64_t height, int64_t width) {
  throw Error(Kind::unsafe, "an image of " + std::to_string(image.height) + " x " +
                                std::to_string(image.width) + " pixels is to be resized to " +
                                std::to_string(height) + " x " + std::to_string(width));
}

void check(const Image& image, int64_t height, int64_t width) {
  const int64_t longest =
      std::max({height, width, int64_t(image.height), int64_t(image.width)});
  if (height < 1 || width < 1) refuse_thin(image.height, image.width);
  if (longest > kMaxSide || height > kMaxPixels / width) {
    refuse(image, height, width);
  }
}

}  // namespace

Image resized(const Image& image, int64_t height, int64_t width, Resample how) {
  check(image, height, width);
  const Filter filter = filter_of(how);
  const bool wider = width != image.width, taller = height != image.height;
  if (!wider && !taller) return image;
  // Where the height shrinks by more than twice what the width does, columns come first.
  const int64_t lower = image.height - height, narrower = image.width - width;
  const bool rows_first = !(lower > 0 && lower > 2 * narrower);
  // The first pass alone may be larger than both images: rows that grow, columns that shrink.
  if (rows_first && width > kMaxPixels / image.height) refuse(image, height, width);
  const int to_height = static_cast<int>(height), to_width = static_cast<int>(width);
  if (!wider) return along_columns(image, to_height, filter);
  if (!taller) return along_rows(image, to_width, filter);
  if (rows_first) return along_columns(along_rows(image, to_width, filter), to_height, filter);
  return along_rows(along_columns(image, to_height, filter), to_width, filter);
}

std::vector<float> resampled(const Image& image, int64_t height, int64_t width, Resample how) {
  check(image, height, width);
  // Rows that grow, columns that shrink: what lies between may be larger than both images.
  if (width > kMaxPixels / image.height) refuse(image, height, width);
  const Filter filter = filter_of(how);
  const size_t rows = size_t(image.height);
  const std::vector<float> bytes(image.rgb.begin(), image.rgb.end());
  const std::vector<float> wide =
      along(bytes, rows, image.width, static_cast<int>(width), 3, filter);
  return along(wide, 1, image.height, static_cast<int>(height), size_t(width) * 3, filter);
}

void refuse_thin(int64_t height, int64_t width) {
  throw Error(Kind::usage, "the image is " + std::to_string(height) + " x " +
                               std::to_string(width) + " pixels, which is too long and thin");
}

}  // namespace moe::runtime
