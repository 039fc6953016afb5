// Images: pixels in memory, sizes and hostile recipes.  tests/embed holds files, sizes and recipes
// beside Pillow and the Python runtime.
#include <algorithm>

#include "../check.h"
#include "ask/positions.h"
#include "core/error.h"
#include "core/json.h"
#include "image/image.h"
#include "image/patches.h"
#include "image/resize.h"
#include "image/seen.h"
#include "image/tiles.h"
#include "refused.h"

namespace moe::tests {

namespace {

using runtime::Array;
using runtime::Image;
using runtime::PatchRecipe;
using runtime::Seen;
using runtime::TileRecipe;

// Each byte another: 0, 1, 2, ...
Image counted(int height, int width) {
  Image made = Image::of(height, width);
  for (size_t i = 0; i < made.rgb.size(); ++i) made.rgb[i] = static_cast<uint8_t>(i);
  return made;
}

// Numbers that are the bytes themselves.
PatchRecipe plain_recipe(PatchRecipe::Layout layout) {
  PatchRecipe made;
  made.token = "<i>";
  made.rescale_factor = 1;
  made.std = {1, 1, 1};
  made.patch_size = 1, made.temporal_patch_size = 2, made.merge_size = 2;
  made.min_pixels = 1, made.max_pixels = 64;
  made.layout = layout;
  return made;
}

// The same in a tile of 4 pixels a side, and in pieces of 2 where an image is larger than these.
TileRecipe cut_recipe() {
  TileRecipe made;
  made.token = "<i>";
  made.rescale_factor = 1;
  made.std = {1, 1, 1};
  made.height = made.width = 4;
  made.features = 2;
  made.before_whole = "w";
  made.crops.emplace();
  made.crops->side = 2, made.crops->features = 1;
  made.crops->max_pieces = 4;
  made.crops->before = "a", made.crops->behind = "b", made.crops->between_rows = "r";
  return made;
}

}  // namespace

TEST(grey_pixels_are_three_alike_and_weigh_what_they_were) {
  const uint8_t pixels[] = {0, 7, 255};
  const Image made = Image::from_pixels(pixels, 1, 3, 1);
  CHECK(made.rgb == (std::vector<uint8_t>{0, 0, 0, 7, 7, 7, 255, 255, 255}), "as RGB");
  CHECK(grey_of(made) == std::vector<uint8_t>(pixels, pixels + 3), "and back");
}

TEST(an_image_of_its_own_size_is_left_alone) {
  const Image image = counted(3, 5);
  CHECK(resized(image, 3, 5, runtime::Resample::lanczos).rgb == image.rgb, "3 x 5");
}

TEST(a_flat_image_stays_flat_in_any_size) {
  Image image = Image::of(7, 11);
  for (uint8_t& byte : image.rgb) byte = 201;
  for (const auto how : {runtime::Resample::bilinear, runtime::Resample::bicubic,
                         runtime::Resample::lanczos}) {
    for (const auto& [height, width] : {std::pair{1, 1}, {20, 3}, {3, 40}, {70, 110}}) {
      for (const uint8_t byte : resized(image, height, width, how).rgb)
        CHECK(byte == 201, "%d in %d x %d", byte, height, width);
    }
  }
}

TEST(sizes_that_no_image_has_are_refused_before_memory_is_taken) {
  const Image image = counted(2, 2);
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{0, 1},
                                      {1, -1},
                                      {int64_t(1) << 40, 1},
                                      {int64_t(1) << 20, int64_t(1) << 20},
                                      {INT64_MAX, INT64_MAX}}) {
    CHECK(!refused([&] { Image::of(height, width); }).empty(), "of");
    CHECK(!refused([&] { resized(image, height, width, runtime::Resample::bicubic); }).empty(),
          "resized");
  }
}

TEST(what_is_pasted_over_an_edge_is_cut_off) {
  for (const auto& [left, top] : {std::pair{-1, -1}, {2, 2}, {5, 0}, {-9, 0}, {0, -2}}) {
    Image canvas = Image::of(3, 3);
    const Image image = counted(2, 2);
    paste(image, left, top, &canvas);
    for (int y = 0; y < 3; ++y) {
      for (int x = 0; x < 3; ++x) {
        const bool inside = x >= left && x < left + 2 && y >= top && y < top + 2;
        const uint8_t expected = inside ? image.row(y - top)[(x - left) * 3 + 1] : 0;
        CHECK(canvas.row(y)[x * 3 + 1] == expected, "%d, %d", x, y);
      }
    }
  }
}

TEST(patches_of_one_feature_lie_together_and_repeat_in_time) {
  // Patches of a pixel, features of 2 x 2: the first feature is of the pixels 0, 1, 4 and 5.
  const Seen seen = patches_of(counted(2, 4), plain_recipe(PatchRecipe::Layout::blocks));
  CHECK(seen.features == 2 && seen.text == "<i><i>", "%s", seen.text.c_str());
  const Array& values = seen.inputs.at("pixel_values");
  CHECK(values.shape == (std::vector<int64_t>{8, 6}), "%s", runtime::words_of(values.shape).c_str());
  const int pixels[] = {0, 1, 4, 5, 2, 3, 6, 7};
  for (int patch = 0; patch < 8; ++patch) {
    for (int i = 0; i < 6; ++i) {
      const float expected = static_cast<float>(pixels[patch] * 3 + i / 2);
      CHECK(values.as<float>()[patch * 6 + i] == expected, "patch %d, number %d", patch, i);
    }
  }
}

TEST(an_image_that_is_padded_keeps_its_size_and_has_less_than_black_around_it) {
  PatchRecipe recipe = plain_recipe(PatchRecipe::Layout::rows);
  recipe.fit = PatchRecipe::Fit::pad;
  const Seen seen = patches_of(counted(1, 3), recipe);
  CHECK(seen.features == 2, "%lld", static_cast<long long>(seen.features));
  const float* values = seen.inputs.at("pixel_values").as<float>();
  for (int patch = 0; patch < 8; ++patch) {
    const float expected = patch < 3 ? static_cast<float>(patch * 3) : -1.0f;
    CHECK(values[patch * 3] == expected, "patch %d", patch);
  }
}

TEST(what_is_transparent_lies_over_chequers_once) {
  Image image = counted(1, 9);
  const Image opaque = over_chequers(image);
  CHECK(opaque.rgb == image.rgb, "nothing is transparent");
  image.alpha = {255, 0, 51, 255, 255, 255, 255, 255, 0};
  const Image mixed = over_chequers(image);
  // A fifth of the bytes 6, 7 and 8, and four fifths of the light grey.
  const uint8_t expected[] = {0, 1, 2, 204, 204, 204, 164, 165, 165};
  for (int i = 0; i < 9; ++i) CHECK(mixed.rgb[size_t(i)] == expected[i], "byte %d", i);
  CHECK(mixed.rgb[24] == 153, "%d", mixed.rgb[24]);
  CHECK(mixed.alpha.empty(), "as if it had never been");
}

TEST(floats_are_neither_rounded_nor_cut_off) {
  Image edge = Image::of(8, 8);
  for (size_t i = 0; i < edge.rgb.size(); ++i) edge.rgb[i] = i % 24 < 12 ? 0 : 255;
  const std::vector<float> made = resampled(edge, 16, 16, runtime::Resample::bicubic);
  CHECK(made.size() == 16 * 16 * 3, "%zu", made.size());
  const auto [least, most] = std::minmax_element(made.begin(), made.end());
  CHECK(*least < -10 && *most > 265, "%g to %g", double(*least), double(*most));
  CHECK(!refused([&] { resampled(edge, 0, 5, runtime::Resample::bicubic); }).empty(), "no rows");
  CHECK(!refused([&] { resampled(edge, 1 << 20, 1 << 20, runtime::Resample::bicubic); }).empty(),
        "too many");
}

TEST(as_many_patches_are_made_as_there_is_room_for) {
  PatchRecipe recipe = plain_recipe(PatchRecipe::Layout::rows);
  recipe.fit = PatchRecipe::Fit::count;
  recipe.min_pixels = 4;
  for (const auto& [height, width] : {std::pair{1, 1}, {3, 4}, {9, 9}, {30, 9}, {64, 64}}) {
    const runtime::Size size = fitted(height, width, recipe);
    CHECK(size.height % 2 == 0 && size.width % 2 == 0, "whole features of %d x %d", height, width);
    CHECK(size.height * size.width <= recipe.max_pixels, "%d x %d", height, width);
  }
}

TEST(places_behind_the_patches_are_empty) {
  const Seen seen = patches_of(counted(2, 2), plain_recipe(PatchRecipe::Layout::places));
  const Array& places = seen.inputs.at("image_position_ids");
  CHECK(places.shape == (std::vector<int64_t>{1, 64, 2}), "%s", runtime::words_of(places.shape).c_str());
  const int64_t* place = places.as<int64_t>();
  CHECK(place[2] == 1 && place[3] == 0 && place[6] == 1 && place[7] == 1, "column, row");
  for (int i = 8; i < 128; ++i) CHECK(place[i] == -1, "%d", i);
}

TEST(images_of_a_prompt_lie_behind_one_another) {
  const PatchRecipe recipe = plain_recipe(PatchRecipe::Layout::rows);
  const Seen one = patches_of(counted(2, 2), recipe), other = patches_of(counted(2, 4), recipe);
  const auto inputs = runtime::side_by_side({&one, &other});
  CHECK(inputs.at("image_grid_thw").shape == (std::vector<int64_t>{2, 3}), "grids");
  CHECK(inputs.at("pixel_values").shape[0] == 12, "patches");
}

TEST(pieces_come_row_by_row_before_the_whole) {
  const Seen seen = tiles_of(counted(4, 4), cut_recipe());
  CHECK(seen.text == "a<i>ba<i>bra<i>ba<i>bw<i><i>", "%s", seen.text.c_str());
  CHECK(seen.features == 6, "%lld", static_cast<long long>(seen.features));
  const Array& pieces = seen.inputs.at(runtime::kPieces);
  CHECK(pieces.shape == (std::vector<int64_t>{4, 3, 2, 2}), "%s",
        runtime::words_of(pieces.shape).c_str());
  // The first pixel of each piece: 0, 2, 8 and 10.
  for (int piece = 0; piece < 4; ++piece) {
    const float expected = static_cast<float>(3 * (piece / 2 * 8 + piece % 2 * 2));
    CHECK(pieces.as<float>()[piece * 12] == expected, "piece %d", piece);
  }
  const uint8_t* whole = seen.inputs.at("is_whole").as<uint8_t>();
  for (int i = 0; i < 6; ++i) CHECK(whole[i] == (i >= 4), "feature %d", i);
}

TEST(images_without_pieces_have_a_black_one_together_and_others_have_their_own) {
  const TileRecipe recipe = cut_recipe();
  const Seen small = tiles_of(counted(2, 2), recipe), large = tiles_of(counted(4, 4), recipe);
  CHECK(small.inputs.at(runtime::kPieces).shape[0] == 0, "not cut");
  const auto together = runtime::side_by_side({&small, &small});
  const Array& black = together.at(runtime::kPieces);
  CHECK(black.shape == (std::vector<int64_t>{1, 3, 2, 2}), "%s",
        runtime::words_of(black.shape).c_str());
  for (int i = 0; i < 12; ++i) CHECK(black.as<float>()[i] == 0, "number %d", i);
  const auto inputs = runtime::side_by_side({&small, &large, &small});
  CHECK(inputs.at(runtime::kPieces).shape[0] == 4, "pieces");
  CHECK(inputs.at("is_whole").shape[0] == 10, "features");
}

TEST(features_stand_on_their_grid_and_text_goes_on_behind_the_longest_side) {
  const Array made = runtime::mrope_positions({5, 9, 9, 9, 9, 9, 9, 5}, 9, {{1, 4, 6}}, 2);
  const std::vector<int64_t> expected = {0, 1, 1, 1, 1, 1, 1, 4,  0, 1, 1, 1, 2, 2, 2, 4,
                                         0, 1, 2, 3, 1, 2, 3, 4};
  const std::vector<int64_t> found(made.as<int64_t>(), made.as<int64_t>() + 24);
  CHECK(found == expected, "%s", runtime::words_of(found).c_str());
}

TEST(a_newline_stands_behind_the_features_of_each_row) {
  const Array made = runtime::mrope_positions({9, 9, 9, 9, 9, 9, 5}, 9, {{1, 4, 4}}, 2, true);
  const std::vector<int64_t> expected = {0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 1, 1, 3,
                                         0, 1, 2, 0, 1, 2, 3};
  const std::vector<int64_t> found(made.as<int64_t>(), made.as<int64_t>() + 21);
  CHECK(found == expected, "%s", runtime::words_of(found).c_str());
}

TEST(features_of_no_image_have_no_positions) {
  CHECK(!refused([] { runtime::mrope_positions({5, 9}, 9, {}, 2); }).empty(), "no image");
  CHECK(!refused([] { runtime::mrope_positions({9}, 9, {{1, 4, 4}}, 2); }).empty(), "cut short");
}

TEST(bytes_that_are_no_image_are_unsafe) {
  using namespace std::string_view_literals;
  for (const std::string_view bytes : {""sv, "GIF89a"sv, "\x89PNG\r\n\x1a\n"sv, "\xFF\xD8\xFF"sv,
                                       "\x89PNG\r\n\x1a\n\0\0\0\rIHDR"sv}) {
    try {
      runtime::decode(bytes, "x.png");
      CHECK(false, "taken for an image");
    } catch (const runtime::Error& error) {
      CHECK(error.kind == runtime::Kind::unsafe || error.kind == runtime::Kind::unsupported, "%s",
            error.what());
      CHECK(error.where == "x.png", "%s", error.where.c_str());
    }
  }
}

}  // namespace moe::tests
