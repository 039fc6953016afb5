#include "image/image.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace moe::runtime {

Image Image::of(int64_t height, int64_t width) {
  if (height < 1 || width < 1 || height > kMaxPixels / width) {
    throw Error(Kind::unsafe, "an image of " + std::to_string(height) + " x " +
                                  std::to_string(width) + " pixels, at most " +
                                  std::to_string(kMaxPixels) + " are made");
  }
  Image made;
  made.width = static_cast<int>(width);
  made.height = static_cast<int>(height);
  made.rgb.resize(static_cast<size_t>(height * width * 3));
  return made;
}

Image Image::from_pixels(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels) {
  if (!pixels || height < 1 || width < 1 || (channels != 1 && channels != 3)) {
    throw Error(Kind::usage,
                "cannot take an image of uint8 [" + std::to_string(height) + ", " +
                    std::to_string(width) + ", " + std::to_string(channels) + "]",
                "", "give a file, or uint8 [H,W] or [H,W,3]");
  }
  Image made = of(height, width);
  if (channels == 3) {
    std::memcpy(made.rgb.data(), pixels, made.rgb.size());
    return made;
  }
  for (size_t i = 0; i < made.rgb.size(); ++i) made.rgb[i] = pixels[i / 3];
  return made;
}

std::vector<uint8_t> grey_of(const Image& image) {
  std::vector<uint8_t> grey(size_t(image.height) * size_t(image.width));
  const uint8_t* pixel = image.rgb.data();
  for (uint8_t& value : grey) {
    // 0.299, 0.587 and 0.114 in 16 bits, which sum to 65536: a grey pixel stays what it is.
    value = static_cast<uint8_t>((pixel[0] * 19595 + pixel[1] * 38470 + pixel[2] * 7471 + 0x8000) >>
                                 16);
    pixel += 3;
  }
  return grey;
}

Image over_chequers(Image image) {
  for (size_t i = 0; i < image.alpha.size(); ++i) {
    const size_t row = i / size_t(image.width), column = i % size_t(image.width);
    const int ground = (row / 8 + column / 8) % 2 ? 153 : 204, alpha = image.alpha[i];
    for (size_t channel = 0; channel < 3; ++channel) {
      uint8_t& value = image.rgb[i * 3 + channel];
      value = static_cast<uint8_t>((value * alpha + ground * (255 - alpha) + 127) / 255);
    }
  }
  image.alpha.clear();
  return image;
}

void paste(const Image& image, int left, int top, Image* canvas) {
  const int from_x = std::max(0, -left), from_y = std::max(0, -top);
  const int to_x = std::min(image.width, canvas->width - left);
  const int to_y = std::min(image.height, canvas->height - top);
  if (from_x >= to_x) return;
  for (int y = from_y; y < to_y; ++y) {
    std::memcpy(canvas->row(y + top) + size_t(from_x + left) * 3,
                image.row(y) + size_t(from_x) * 3, size_t(to_x - from_x) * 3);
  }
}

}  // namespace moe::runtime
