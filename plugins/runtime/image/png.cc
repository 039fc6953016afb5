// PNG by libpng.  Its errors are jumps, so what has a destructor stays outside of `read`.
#include "image/formats.h"

#include "core/error.h"

#if MOE_EXPORT_PNG

#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstring>
#include <optional>
#include <vector>

namespace moe::runtime {

namespace {

struct Reading {
  const char* next;
  size_t left;
  char message[160] = "";

  png_structp png = nullptr;
  png_infop info = nullptr;
  int bits = 0, kind = 0;  // as the file has them
  png_uint_32 width = 0, height = 0;
  uint8_t palette[256][3] = {};  // black where the file has no colour
  // Alpha of the colours that come first in the palette; the others hide what is behind them.
  uint8_t palette_alpha[256] = {};
  size_t palette_alpha_count = 0;
  // The colour that hides nothing, if there is one, as Pillow compares it: with bytes.
  std::optional<std::array<uint8_t, 3>> clear;
};

void give(png_structp png, png_bytep to, size_t count) {
  auto* reading = static_cast<Reading*>(png_get_io_ptr(png));
  if (count > reading->left) png_error(png, "the file is cut short");
  std::memcpy(to, reading->next, count);
  reading->next += count;
  reading->left -= count;
}

void fail(png_structp png, png_const_charp message) {
  auto* reading = static_cast<Reading*>(png_get_error_ptr(png));
  std::strncpy(reading->message, message, sizeof reading->message - 1);
  png_longjmp(png, 1);
}

void pass(png_structp, png_const_charp) {}

bool has_alpha(const Reading& reading) { return reading.kind & PNG_COLOR_MASK_ALPHA; }

// Bytes of a pixel as `read_rows` leaves them.
int channels_of(const Reading& reading) {
  if (reading.kind & PNG_COLOR_MASK_PALETTE) return 1;
  if (reading.kind == PNG_COLOR_TYPE_GRAY) return reading.bits == 16 ? 2 : 1;
  return (reading.kind & PNG_COLOR_MASK_COLOR ? 3 : 1) + (has_alpha(reading) ? 1 : 0);
}

void read_transparency(Reading* reading) {
  png_bytep alpha = nullptr;
  png_color_16p colour = nullptr;
  int count = 0;
  if (!png_get_tRNS(reading->png, reading->info, &alpha, &count, &colour)) return;
  if (alpha && reading->kind & PNG_COLOR_MASK_PALETTE) {
    reading->palette_alpha_count = static_cast<size_t>(std::min(count, 256));
    std::memcpy(reading->palette_alpha, alpha, reading->palette_alpha_count);
    return;
  }
  if (!colour) return;
  const bool is_grey = reading->kind == PNG_COLOR_TYPE_GRAY;
  const auto byte = [&](png_uint_16 of_colour) {
    if (is_grey && reading->bits == 1) return static_cast<uint8_t>(colour->gray ? 255 : 0);
    return static_cast<uint8_t>(is_grey ? colour->gray : of_colour);
  };
  reading->clear = {byte(colour->red), byte(colour->green), byte(colour->blue)};
}

bool read_header(Reading* reading) {
  if (setjmp(png_jmpbuf(reading->png))) return false;
  png_set_read_fn(reading->png, reading, give);
  png_set_crc_action(reading->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  // Nothing beside pixels, palette and transparency is looked at.
  png_set_keep_unknown_chunks(reading->png, PNG_HANDLE_CHUNK_NEVER, nullptr, 0);
  png_set_user_limits(reading->png, 0x7fffffff, 0x7fffffff);  // refuse_bomb says it better
  png_set_chunk_cache_max(reading->png, 128);
  png_set_chunk_malloc_max(reading->png, 1 << 20);
  png_read_info(reading->png, reading->info);
  png_get_IHDR(reading->png, reading->info, &reading->width, &reading->height, &reading->bits,
               &reading->kind, nullptr, nullptr, nullptr);
  png_colorp colours = nullptr;
  int count = 0;
  if (png_get_PLTE(reading->png, reading->info, &colours, &count)) {
    for (int i = 0; i < std::min(count, 256); ++i) {
      reading->palette[i][0] = colours[i].red;
      reading->palette[i][1] = colours[i].green;
      reading->palette[i][2] = colours[i].blue;
    }
  }
  read_transparency(reading);
  return true;
}

bool read_rows(Reading* reading, uint8_t* pixels, size_t stride) {
  if (setjmp(png_jmpbuf(reading->png))) return false;
  if (reading->bits < 8) png_set_packing(reading->png);
  if (reading->kind != PNG_COLOR_TYPE_GRAY && reading->bits == 16) png_set_strip_16(reading->png);
  const int passes = png_set_interlace_handling(reading->png);
  png_read_update_info(reading->png, reading->info);
  if (png_get_rowbytes(reading->png, reading->info) != stride) {
    png_error(reading->png, "rows of an unexpected size");
  }
  for (int pass_number = 0; pass_number < passes; ++pass_number) {
    for (png_uint_32 y = 0; y < reading->height; ++y) {
      png_read_row(reading->png, pixels + y * stride, nullptr);
    }
  }
  return true;
}

// Frees what libpng holds, however decoding ends.
struct Open {
  Reading* reading;
  ~Open() { png_destroy_read_struct(&reading->png, &reading->info, nullptr); }
};

uint8_t grey_value(const Reading& reading, const uint8_t* at) {
  // Grey of fewer bits is spread over the byte; of sixteen bits Pillow cuts what is above 255.
  switch (reading.bits) {
    case 1: return at[0] ? 255 : 0;
    case 2: return static_cast<uint8_t>(at[0] * 85);
    case 4: return static_cast<uint8_t>(at[0] * 17);
    case 16: return has_alpha(reading) ? at[0] : at[0] ? 255 : at[1];
    default: return at[0];
  }
}

// Pixels of one channel, two or four as colours, and as alpha where they have any.
void unpack(const Reading& reading, const std::vector<uint8_t>& pixels, Image* image) {
  const size_t channels = static_cast<size_t>(channels_of(reading));
  const size_t count = pixels.size() / channels;
  if (has_alpha(reading) || reading.palette_alpha_count > 0) image->alpha.resize(count, 255);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* at = &pixels[i * channels];
    uint8_t* to = &image->rgb[i * 3];
    if (has_alpha(reading)) image->alpha[i] = at[channels - 1];
    if (reading.kind & PNG_COLOR_MASK_PALETTE) {
      std::memcpy(to, reading.palette[at[0]], 3);
      if (at[0] < reading.palette_alpha_count) image->alpha[i] = reading.palette_alpha[at[0]];
    } else if (channels == 4) {
      std::memcpy(to, at, 3);
    } else {
      std::memset(to, grey_value(reading, at), 3);
    }
  }
}

// Pixels of this colour hide nothing, all others everything.
void make_clear(const std::array<uint8_t, 3>& colour, Image* image) {
  image->alpha.resize(image->rgb.size() / 3);
  for (size_t i = 0; i < image->alpha.size(); ++i) {
    image->alpha[i] = std::memcmp(colour.data(), &image->rgb[i * 3], 3) ? 255 : 0;
  }
}

}  // namespace

Image decode_png(std::string_view bytes, const std::string& where) {
  Reading reading{bytes.data(), bytes.size()};
  const auto refuse = [&] {
    throw Error(Kind::unsafe, std::string("not an image that can be read: ") + reading.message,
                where);
  };
  Open open{&reading};
  reading.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reading, fail, pass);
  reading.info = reading.png ? png_create_info_struct(reading.png) : nullptr;
  if (!reading.info) throw Error(Kind::memory, "no memory to read a PNG", where);
  if (!read_header(&reading)) refuse();
  refuse_bomb(reading.width, reading.height, where);

  Image made = Image::of(reading.height, reading.width);
  const size_t channels = static_cast<size_t>(channels_of(reading));
  if (channels == 3) {
    if (!read_rows(&reading, made.rgb.data(), size_t(made.width) * 3)) refuse();
  } else {
    std::vector<uint8_t> pixels(size_t(made.width) * size_t(made.height) * channels);
    if (!read_rows(&reading, pixels.data(), size_t(made.width) * channels)) refuse();
    unpack(reading, pixels, &made);
  }
  if (reading.clear) make_clear(*reading.clear, &made);
  return made;
}

}  // namespace moe::runtime

#else

namespace moe::runtime {

Image decode_png(std::string_view, const std::string& where) {
  throw Error(Kind::unsupported, "this library was built without libpng, which reads PNG files",
              where, "give pixels, or build it where libpng is");
}

}  // namespace moe::runtime

#endif
