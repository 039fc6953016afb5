// Resizing as Pillow does it, to the bit, and as PyTorch does it.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_RESIZE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_RESIZE_H_

#include <vector>

#include "image/image.h"

namespace moe::runtime {

enum class Resample { bilinear, bicubic, lanczos };

// `image` in another size: Pillow's Image.resize of RGB or, as every channel is resized alike, of
// grey.  Where it shrinks, the filter is as wide as the pixels that become one (antialias).  Rows and
// columns are resized one after the other, each rounded to bytes, in the order of Pillow 13: columns
// first where the height shrinks by more than twice what the width does.  Weights have 22 binary
// digits.
//
// Raises what refuse_thin does for a size of no pixels, and Error(unsafe) for one of more than
// kMaxPixels and for sides of more than 2^22 pixels.
Image resized(const Image& image, int64_t height, int64_t width, Resample how);

// `image` in another size, [height, width, 3]: PyTorch's `interpolate` of float32 with `antialias`,
// which keeps what lies between bytes and beyond them; bilinear or bicubic.  Rows are resized before
// columns.  Sums go from the first pixel to the last, each step rounded to float32.
//
// Raises what `resized` does.
std::vector<float> resampled(const Image& image, int64_t height, int64_t width, Resample how);

// Error(usage): a recipe makes nothing of an image of this size, or too much.
[[noreturn]] void refuse_thin(int64_t height, int64_t width);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_RESIZE_H_
