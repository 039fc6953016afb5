// An image as pixels: rows from top to bottom, three bytes a pixel.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_IMAGE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moe::runtime {

// 64 megapixels, 192 MiB as RGB: above any photograph a model is asked about, below a bomb.
constexpr int64_t kMaxPixels = int64_t(1) << 26;

// In pixels.
struct Size {
  int64_t height = 0, width = 0;
};

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;    // [height, width, 3]
  std::vector<uint8_t> alpha;  // [height, width] of a file with transparency: 255 where it hides all

  // Black.  Raises Error(unsafe) for no pixels or more than kMaxPixels.
  static Image of(int64_t height, int64_t width);

  // From `channels` (1 for grey, 3 for RGB) bytes for each pixel.  Raises Error(usage) for another
  // number of channels or no pixels, Error(unsafe) for more than kMaxPixels.
  static Image from_pixels(const uint8_t* pixels, int64_t height, int64_t width, int64_t channels);

  const uint8_t* row(int y) const { return rgb.data() + size_t(y) * size_t(width) * 3; }
  uint8_t* row(int y) { return rgb.data() + size_t(y) * size_t(width) * 3; }
};

// The pixels of a PNG or JPEG file, those of Pillow's convert("RGB"): colours of a palette, CMYK as
// Pillow takes it; what is transparent keeps its colour, 16 bits of colour lose the lower eight, 16
// bits of grey are cut at 255, and a rotation that EXIF asks for is left to whoever asks for it.
//
// Raises Error(unsafe) naming `where` for bytes that are no such file, are cut short or too large,
// and Error(unsupported) for a file in a format that this library was built without.
Image decode(std::string_view bytes, const std::string& where);

// `decode` of a file.  Raises Error(usage) where there is none or it may not be read.
Image decode_file(const std::string& path);

// The grey of each pixel as Pillow's convert("L") weighs colours (ITU-R 601-2), [height, width].
std::vector<uint8_t> grey_of(const Image& image);

// `image` over squares of 8 pixels of two greys, the lighter first (Inkling 2), and without alpha; one
// that has none, as it is.
Image over_chequers(Image image);

// `image` over `canvas`, its upper left corner at (left, top); what lies outside is cut off.
void paste(const Image& image, int left, int top, Image* canvas);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_IMAGE_H_
