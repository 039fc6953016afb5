#include "image/recipe.h"

#include <algorithm>
#include <cmath>

#include "image/image.h"

namespace moe::runtime {

namespace {

// As in moe_export/dialogue.py.
constexpr int64_t kMaxTiles = 256;
constexpr int64_t kMaxFeatures = int64_t(1) << 16;
// A side of a patch, a block or a tile; the products of two still fit 64 bits.
constexpr int64_t kMaxSize = kMaxPixels;

template <typename Enum>
Enum chosen(const Field& field, const std::vector<std::string>& names) {
  const std::string name = field.choice(names);
  return static_cast<Enum>(std::find(names.begin(), names.end(), name) - names.begin());
}

int64_t integer_or(Members* members, const char* name, int64_t otherwise) {
  const auto found = members->find(name);
  return found ? found->integer() : otherwise;
}

bool boolean_or(Members* members, const char* name, bool otherwise) {
  const auto found = members->find(name);
  return found ? found->boolean() : otherwise;
}

std::string text_or_empty(Members* members, const char* name) {
  const auto found = members->find(name);
  return found ? found->text() : "";
}

std::optional<int64_t> optional_integer(Members* members, const char* name) {
  const auto found = members->given(name);
  return found ? std::optional<int64_t>(found->integer()) : std::nullopt;
}

void read_common(Members* members, ImageRecipe* recipe) {
  recipe->token = members->at("token").text();
  recipe->token_id = members->at("token_id").integer();
  if (const auto how = members->find("resample")) {
    recipe->resample = chosen<Resample>(*how, {"bilinear", "bicubic", "lanczos"});
  }
  recipe->rescale_factor = members->at("rescale_factor").number();
  if (const auto rounding = members->find("rounding")) {
    recipe->bfloat16 = rounding->choice({"float32", "bfloat16"}) == "bfloat16";
  }
  const auto mean = members->at("mean").numbers(), std = members->at("std").numbers();
  if (mean.size() != 3 || std.size() != 3 || std::count(std.begin(), std.end(), 0.0)) {
    members->refuse("there are not three channels, or std holds a zero");
  }
  std::copy(mean.begin(), mean.end(), recipe->mean.begin());
  std::copy(std.begin(), std.end(), recipe->std.begin());
  if (recipe->token.empty()) members->refuse("the image's token is no text");
}

CropRecipe read_crops(const Field& value) {
  Members members(value);
  CropRecipe made;
  made.side = members.at("side").integer();
  made.features = members.at("features").integer();
  made.fit = chosen<CropRecipe::Fit>(members.at("fit"), {"grid", "window"});
  made.min_pieces = integer_or(&members, "min_pieces", 1);
  made.max_pieces = integer_or(&members, "max_pieces", 1);
  made.largest = optional_integer(&members, "largest");
  made.before = text_or_empty(&members, "before");
  made.behind = text_or_empty(&members, "behind");
  made.between_rows = text_or_empty(&members, "between_rows");
  made.joined = boolean_or(&members, "joined", false);
  members.done();

  const int64_t largest = made.largest.value_or(1);
  if (std::min({made.side, made.features, made.min_pieces, largest}) < 1) {
    members.refuse("a size of pieces is less than 1");
  }
  if (made.min_pieces > made.max_pieces || made.max_pieces > kMaxTiles ||
      made.features > kMaxFeatures) {
    members.refuse("min_pieces is above max_pieces, or that above " + std::to_string(kMaxTiles));
  }
  const bool has_text = !(made.before + made.behind + made.between_rows).empty();
  if (made.joined && (made.ends() * made.ends() != made.features || has_text)) {
    members.refuse("joined pieces have a square of features each, and no text between");
  }
  const int64_t longest = std::max(made.side, largest);
  if (longest > kMaxPixels / longest) {
    members.refuse("pieces of more than " + std::to_string(kMaxPixels) + " pixels");
  }
  return made;
}

}  // namespace

int64_t CropRecipe::ends() const {
  // Exact for as few features as a piece may have.
  return joined ? static_cast<int64_t>(std::sqrt(static_cast<double>(features))) : 0;
}

PatchRecipe read_patches(const Field& value) {
  Members members(value);
  PatchRecipe made;
  read_common(&members, &made);
  made.patch_size = members.at("patch_size").integer();
  made.temporal_patch_size = members.at("temporal_patch_size").integer();
  made.merge_size = members.at("merge_size").integer();
  made.min_pixels = members.at("min_pixels").integer();
  made.max_pixels = members.at("max_pixels").integer();
  made.max_side = optional_integer(&members, "max_side");
  if (const auto fit = members.find("fit")) {
    made.fit = chosen<PatchRecipe::Fit>(
        *fit, {"area", "shrink", "fill", "canvas", "edge", "zoom", "shape", "count", "pad"});
  }
  if (const auto layout = members.find("layout")) {
    made.layout = chosen<PatchRecipe::Layout>(
        *layout, {"blocks", "rows", "places", "flat_rows", "cells", "times"});
  }
  made.newline = boolean_or(&members, "newline", false);
  made.between_rows = text_or_empty(&members, "between_rows");
  if (const auto zoom = members.given("zoom")) made.zoom = zoom->number();
  members.done();

  const int64_t sizes[] = {made.patch_size, made.temporal_patch_size, made.merge_size};
  if (*std::min_element(sizes, sizes + 3) < 1 || made.min_pixels < 1) {
    members.refuse("a size of patches is less than 1");
  }
  if (*std::max_element(sizes, sizes + 3) > kMaxSize || made.unit() > kMaxSize) {
    members.refuse("a patch is larger than any image");
  }
  if (made.min_pixels > made.max_pixels || made.max_pixels > kMaxPixels) {
    members.refuse("min_pixels is above max_pixels, or that above " + std::to_string(kMaxPixels));
  }
  const bool has_side = made.fit == PatchRecipe::Fit::shrink ||
                        made.fit == PatchRecipe::Fit::edge || made.zoom.has_value();
  const int64_t most = made.max_side.value_or(1);
  if (has_side != made.max_side.has_value() || most < 1) {
    members.refuse("max_side belongs to shrink, edge and a zoom, and is 1 or more");
  }
  if (made.fit != PatchRecipe::Fit::shrink && most > kMaxPixels / most) {
    members.refuse("a max_side of more than " + std::to_string(kMaxPixels) +
                   " pixels in a square");
  }
  const bool zooms = made.fit == PatchRecipe::Fit::zoom;
  if (zooms != (made.layout == PatchRecipe::Layout::cells)) {
    members.refuse("zoom belongs to cells, and cells to zoom");
  }
  if (made.zoom && (!zooms || !(*made.zoom > 0))) {
    members.refuse("a factor belongs to zoom, and is above 0");
  }
  if (zooms && (made.merge_size != 1 || made.newline || !made.between_rows.empty())) {
    members.refuse("a cell is one feature, and nothing stands behind a row of them");
  }
  if (made.fit == PatchRecipe::Fit::count && made.resample == Resample::lanczos) {
    members.refuse("count resizes bilinear or bicubic");
  }
  if (made.between_rows.find(made.token) != std::string::npos) {
    members.refuse("what stands between rows holds the image's token");
  }
  return made;
}

TileRecipe read_tiles(const Field& value) {
  Members members(value);
  TileRecipe made;
  read_common(&members, &made);
  made.height = members.at("height").integer();
  made.width = members.at("width").integer();
  made.features = members.at("features").integer();
  made.separators = integer_or(&members, "separators", 0);
  made.fit = chosen<TileRecipe::Fit>(members.at("fit"),
                                     {"whole", "aspect", "scale", "corner", "middle"});
  made.min_tiles = integer_or(&members, "min_tiles", 1);
  made.max_tiles = integer_or(&members, "max_tiles", 1);
  made.enlarge = boolean_or(&members, "enlarge", false);
  made.min_side = integer_or(&members, "min_side", 1);
  std::vector<int64_t> fill = {0, 0, 0};
  if (const auto found = members.find("fill")) fill = found->integers();
  made.masked = boolean_or(&members, "masked", false);
  made.max_side = optional_integer(&members, "max_side");
  if (const auto most = members.given("max_aspect")) made.max_aspect = most->number();
  made.between_columns = text_or_empty(&members, "between_columns");
  made.behind_row = text_or_empty(&members, "behind_row");
  made.before_whole = text_or_empty(&members, "before_whole");
  if (const auto crops = members.given("crops")) made.crops = read_crops(*crops);
  members.done();

  const int64_t least = std::min({made.height, made.width, made.features, made.min_tiles,
                                  made.min_side, made.max_side.value_or(1)});
  if (least < 1 || made.separators < 0) members.refuse("a size of tiles is less than 1");
  if (made.min_tiles > made.max_tiles || made.max_tiles > kMaxTiles) {
    members.refuse("min_tiles is above max_tiles, or that above " + std::to_string(kMaxTiles));
  }
  const bool bytes = std::all_of(fill.begin(), fill.end(), [](int64_t v) { return v >= 0 && v <= 255; });
  if (fill.size() != 3 || !bytes) members.refuse("the colour is not three bytes");
  std::copy(fill.begin(), fill.end(), made.fill.begin());
  if (made.height > kMaxPixels / made.width / made.max_tiles || made.min_side > made.height) {
    members.refuse("tiles of more than " + std::to_string(kMaxPixels) +
                   " pixels, or min_side above a tile's");
  }
  if (std::max(made.features, made.separators) > kMaxFeatures) {
    members.refuse("a tile has more than " + std::to_string(kMaxFeatures) + " features");
  }
  std::string texts = made.between_columns + made.behind_row + made.before_whole;
  if (const auto& crops = made.crops) {
    texts += crops->before + crops->behind + crops->between_rows;
    if (made.max_tiles > 1 || made.masked || made.height != made.width) {
      members.refuse("crops belong to one square tile without a mask");
    }
  }
  if (texts.find(made.token) != std::string::npos) {
    members.refuse("what stands between tiles holds the image's token");
  }
  return made;
}

}  // namespace moe::runtime
