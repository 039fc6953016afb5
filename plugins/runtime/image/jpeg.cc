// JPEG by libjpeg-turbo, with the settings that Pillow leaves as they are: the accurate DCT and
// smooth upsampling.  Its errors are jumps, so what has a destructor stays outside of the reading.
#include "image/formats.h"

#include "core/error.h"

#if MOE_EXPORT_JPEG

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>

namespace moe::runtime {

namespace {

struct Reading {
  jpeg_decompress_struct jpeg;
  jpeg_error_mgr errors;
  jpeg_source_mgr source;
  std::jmp_buf out;
  char message[JMSG_LENGTH_MAX] = "";
};

Reading* reading_of(j_common_ptr jpeg) { return static_cast<Reading*>(jpeg->client_data); }

void fail(j_common_ptr jpeg) {
  Reading* reading = reading_of(jpeg);
  jpeg->err->format_message(jpeg, reading->message);
  std::longjmp(reading->out, 1);
}

void fail(Reading* reading, const char* message) {
  std::strncpy(reading->message, message, sizeof reading->message - 1);
  std::longjmp(reading->out, 1);
}

void pass(j_common_ptr) {}
void pass(j_common_ptr, int) {}

// All bytes there are were given at once.
boolean no_more(j_decompress_ptr jpeg) {
  fail(reading_of(reinterpret_cast<j_common_ptr>(jpeg)), "the file is cut short");
  return FALSE;
}

void skip(j_decompress_ptr jpeg, long count) {
  if (count <= 0) return;
  if (static_cast<size_t>(count) > jpeg->src->bytes_in_buffer) no_more(jpeg);
  jpeg->src->next_input_byte += count;
  jpeg->src->bytes_in_buffer -= static_cast<size_t>(count);
}

void nothing(j_decompress_ptr) {}

// A progressive file may ask for a pass over all its pixels in every few bytes.
constexpr int kMaxScans = 500;

void count_scans(j_common_ptr jpeg) {
  if (!jpeg->is_decompressor) return;
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number > kMaxScans) {
    fail(reading_of(jpeg), "the file has too many scans");
  }
}

bool read_header(Reading* reading, std::string_view bytes) {
  if (setjmp(reading->out)) return false;
  jpeg_create_decompress(&reading->jpeg);
  reading->jpeg.client_data = reading;
  reading->source.init_source = nothing;
  reading->source.fill_input_buffer = no_more;
  reading->source.skip_input_data = skip;
  reading->source.resync_to_restart = jpeg_resync_to_restart;
  reading->source.term_source = nothing;
  reading->source.next_input_byte = reinterpret_cast<const JOCTET*>(bytes.data());
  reading->source.bytes_in_buffer = bytes.size();
  reading->jpeg.src = &reading->source;
  jpeg_read_header(&reading->jpeg, TRUE);
  return true;
}

// Rows of three bytes a pixel, or four for CMYK.
bool read_rows(Reading* reading, uint8_t* pixels, size_t stride) {
  static jpeg_progress_mgr scans;  // read only, once it is made
  if (setjmp(reading->out)) return false;
  jpeg_decompress_struct& jpeg = reading->jpeg;
  jpeg_progress_mgr progress = scans;
  progress.progress_monitor = count_scans;
  jpeg.progress = &progress;
  jpeg.out_color_space = jpeg.num_components == 4 ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&jpeg);
  if (size_t(jpeg.output_width) * size_t(jpeg.output_components) != stride) {
    fail(reading, "rows of an unexpected size");
  }
  while (jpeg.output_scanline < jpeg.output_height) {
    JSAMPROW row = pixels + jpeg.output_scanline * stride;
    jpeg_read_scanlines(&jpeg, &row, 1);
  }
  return true;
}

// Frees what libjpeg holds, however decoding ends.
struct Open {
  Reading* reading;
  ~Open() { jpeg_destroy_decompress(&reading->jpeg); }
};

// Inverted, as Adobe stores it: 255 is no ink.
void rgb_of_cmyk(const uint8_t* cmyk, uint8_t* rgb) {
  const int light = cmyk[3];
  for (int c = 0; c < 3; ++c) {
    const int product = (255 - cmyk[c]) * light + 128;
    rgb[c] = static_cast<uint8_t>(light - (((product >> 8) + product) >> 8));
  }
}

}  // namespace

Image decode_jpeg(std::string_view bytes, const std::string& where) {
  Reading reading{};
  reading.jpeg.err = jpeg_std_error(&reading.errors);
  reading.errors.error_exit = fail;
  reading.errors.output_message = pass;
  reading.errors.emit_message = pass;
  reading.jpeg.client_data = &reading;
  const auto refuse = [&] {
    throw Error(Kind::unsafe, std::string("not an image that can be read: ") + reading.message,
                where);
  };
  Open open{&reading};
  if (!read_header(&reading, bytes)) refuse();
  const jpeg_decompress_struct& jpeg = reading.jpeg;
  refuse_bomb(jpeg.image_width, jpeg.image_height, where);
  if (jpeg.num_components != 1 && jpeg.num_components != 3 && jpeg.num_components != 4) {
    std::snprintf(reading.message, sizeof reading.message, "%d layers", jpeg.num_components);
    refuse();
  }

  Image made = Image::of(jpeg.image_height, jpeg.image_width);
  if (jpeg.num_components != 4) {
    if (!read_rows(&reading, made.rgb.data(), size_t(made.width) * 3)) refuse();
    return made;
  }
  const size_t count = size_t(made.width) * size_t(made.height);
  std::vector<uint8_t> inks(count * 4);
  if (!read_rows(&reading, inks.data(), size_t(made.width) * 4)) refuse();
  for (size_t i = 0; i < count; ++i) rgb_of_cmyk(&inks[i * 4], &made.rgb[i * 3]);
  return made;
}

}  // namespace moe::runtime

#else

namespace moe::runtime {

Image decode_jpeg(std::string_view, const std::string& where) {
  throw Error(Kind::unsupported, "this library was built without libjpeg, which reads JPEG files",
              where, "give pixels, or build it where libjpeg-turbo is");
}

}  // namespace moe::runtime

#endif
