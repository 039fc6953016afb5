#include "image/seen.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace moe::runtime {

namespace {

// Far more than the tokens of any image.
constexpr int64_t kMaxText = int64_t(1) << 26;
// A gibibyte of float32.
constexpr int64_t kMaxNumbers = int64_t(1) << 28;

// Float32 that bfloat16 holds, the nearest, ties to even; of finite numbers.
float to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

Numbers::Numbers(const ImageRecipe& recipe)
    : factor_(static_cast<float>(recipe.rescale_factor)), bfloat16_(recipe.bfloat16) {
  for (size_t channel = 0; channel < 3; ++channel) {
    const float mean = static_cast<float>(recipe.mean[channel]);
    const float std = static_cast<float>(recipe.std[channel]);
    mean_[channel] = bfloat16_ ? to_bfloat16(mean) : mean;
    std_[channel] = bfloat16_ ? to_bfloat16(std) : std;
    for (int byte = 0; byte < 256; ++byte) {
      table_[channel][size_t(byte)] = between(static_cast<float>(byte), static_cast<int>(channel));
    }
    below_[channel] = between(-1, static_cast<int>(channel));
  }
}

float Numbers::between(float value, int channel) const {
  const auto rounded = [&](float step) { return bfloat16_ ? to_bfloat16(step) : step; };
  return rounded(rounded(rounded(value * factor_) - mean_[size_t(channel)]) /
                 std_[size_t(channel)]);
}

float* Numbers::put(const Image& image, int64_t top, int64_t left, const Size& size,
                    float* to) const {
  for (int channel = 0; channel < 3; ++channel) {
    for (int64_t y = top; y < top + size.height; ++y) {
      const uint8_t* from = image.row(static_cast<int>(y)) + left * 3 + channel;
      for (int64_t x = 0; x < size.width; ++x, from += 3) *to++ = of(*from, channel);
    }
  }
  return to;
}

std::map<std::string, Array> side_by_side(const std::vector<const Seen*>& images) {
  std::map<std::string, Array> made;
  for (const Seen* image : images) {
    for (const auto& [name, array] : image->inputs) {
      const auto [place, is_first] = made.emplace(name, array);
      if (is_first) continue;
      Array& all = place->second;
      if (all.dtype != array.dtype || all.shape.size() != array.shape.size() ||
          !std::equal(all.shape.begin() + 1, all.shape.end(), array.shape.begin() + 1)) {
        throw Error(Kind::internal, "images do not go together: " + name + " " +
                                        words_of(all.shape) + " and " + words_of(array.shape));
      }
      all.shape[0] += array.shape[0];
      all.data.insert(all.data.end(), array.data.begin(), array.data.end());
    }
  }
  const auto pieces = made.find(kPieces);
  if (pieces != made.end() && pieces->second.shape[0] == 0) {
    // Nobody reads its features.
    std::vector<int64_t> shape = pieces->second.shape;
    shape[0] = 1;
    pieces->second = Array::of(pieces->second.dtype, std::move(shape));
  }
  return made;
}

void check_numbers(int64_t count, int64_t each) {
  if (count <= kMaxNumbers / each) return;
  throw Error(Kind::unsafe, "the recipe makes more than " + std::to_string(kMaxNumbers) +
                                " numbers of an image");
}

std::string repeated(const std::string& part, int64_t times) {
  if (!part.empty() && times > kMaxText / static_cast<int64_t>(part.size())) {
    throw Error(Kind::unsafe, "an image would be " + std::to_string(times) + " tokens of text");
  }
  std::string made;
  made.reserve(part.size() * static_cast<size_t>(times));
  for (int64_t i = 0; i < times; ++i) made += part;
  return made;
}

}  // namespace moe::runtime
