#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <sys/stat.h>

#include "core/error.h"
#include "image/formats.h"
#include "image/image.h"

namespace moe::runtime {

namespace {

constexpr std::string_view kPng("\x89PNG\r\n\x1a\n", 8);
constexpr std::string_view kJpeg("\xFF\xD8\xFF", 3);

// A compressed photograph of kMaxPixels is smaller, however it was compressed.
constexpr int64_t kMaxBytes = int64_t(1) << 29;

bool begins(std::string_view bytes, std::string_view with) {
  return bytes.substr(0, with.size()) == with;
}

}  // namespace

void refuse_bomb(int64_t width, int64_t height, const std::string& where) {
  if (width > 0 && height > 0 && height <= kMaxPixels / width) return;
  throw Error(Kind::unsafe,
              "the image is too large: " + std::to_string(width) + " x " + std::to_string(height) +
                  " pixels, at most " + std::to_string(kMaxPixels) + " are read",
              where);
}

Image decode(std::string_view bytes, const std::string& where) {
  if (begins(bytes, kPng)) return decode_png(bytes, where);
  if (begins(bytes, kJpeg)) return decode_jpeg(bytes, where);
  throw Error(Kind::unsafe, "not an image that can be read", where, "the formats are PNG and JPEG");
}

Image decode_file(const std::string& path) {
  struct stat found = {};
  if (stat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) {
    throw Error(Kind::usage, "there is no such image", path);
  }
  if (found.st_size > kMaxBytes) {
    throw Error(Kind::unsafe, "the image is a file of " + std::to_string(found.st_size) + " bytes",
                path);
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(Kind::usage, "the image may not be read", path);
  std::string bytes(static_cast<size_t>(found.st_size), '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return decode(bytes, path);
}

}  // namespace moe::runtime
