// The file formats, each in a file of its own.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_FORMATS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_FORMATS_H_

#include <string>
#include <string_view>

#include "image/image.h"

namespace moe::runtime {

// What `decode` promises, of bytes that begin as a file of the format does.
Image decode_png(std::string_view bytes, const std::string& where);
Image decode_jpeg(std::string_view bytes, const std::string& where);

// Raises Error(unsafe) for a size of no pixels or of more than kMaxPixels, before memory is taken.
void refuse_bomb(int64_t width, int64_t height, const std::string& where);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_FORMATS_H_
