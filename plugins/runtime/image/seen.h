// An image as the `vision` component takes it, and as text.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_SEEN_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_SEEN_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/array.h"
#include "image/image.h"
#include "image/recipe.h"

namespace moe::runtime {

// What `vision` takes pieces of images as, where it takes any: at least one.
constexpr const char* kPieces = "pixel_values_local";

struct Seen {
  // What `vision` takes, by name; several images stand behind one another on axis 0.
  std::map<std::string, Array> inputs;
  // What stands for the image where its prompt has the image's token, which it holds `features` times.
  std::string text;
  int64_t features = 0;
  // Time, rows and columns of its patches, or of its tiles.
  std::array<int64_t, 3> grid{};
};

// What `vision` takes for one image or more: a black piece where none of them is cut, as a graph is
// not asked to look at nothing.  Raises Error(internal) where their inputs do not go
// together, which those of one recipe do.
std::map<std::string, Array> side_by_side(const std::vector<const Seen*>& images);

// The number that each byte becomes, by channel: (byte * rescale_factor - mean) / std.
class Numbers {
 public:
  explicit Numbers(const ImageRecipe& recipe);
  float of(uint8_t byte, int channel) const { return table_[size_t(channel)][byte]; }
  // What a byte of that value would become, if there were one.
  float between(float value, int channel) const;
  // What a byte of -1 would become.
  float below(int channel) const { return below_[size_t(channel)]; }
  // The rectangle of `size` from (top, left) on to [C, height, width] at `to`; where that ends.
  float* put(const Image& image, int64_t top, int64_t left, const Size& size, float* to) const;

 private:
  float factor_;
  bool bfloat16_;
  std::array<float, 3> mean_, std_;
  std::array<std::array<float, 256>, 3> table_;
  std::array<float, 3> below_;
};

// Raises Error(unsafe) where `count` times `each` are more numbers than are made of an image.
void check_numbers(int64_t count, int64_t each);

// `part` so many times.  Raises Error(unsafe) for more text than a model could read.
std::string repeated(const std::string& part, int64_t times);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_SEEN_H_
