// How an image becomes the inputs of `vision`: the recipes of dialogue.json, whose meaning stands in
// docs/bundle.md.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_RECIPE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_RECIPE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "core/json.h"
#include "image/resize.h"

namespace moe::runtime {

// What all families do: y = (pixel * rescale_factor - mean) / std by channel, each step rounded.
struct ImageRecipe {
  std::string token;  // the text of one feature
  int64_t token_id = 0;
  Resample resample = Resample::bicubic;
  double rescale_factor = 0;
  std::array<double, 3> mean{}, std{};
  bool bfloat16 = false;  // what each step is rounded to; else float32
};

struct PatchRecipe : ImageRecipe {
  enum class Fit { area, shrink, fill, canvas, edge, zoom, shape, count, pad };
  enum class Layout { blocks, rows, places, flat_rows, cells, times };
  int64_t patch_size = 0, temporal_patch_size = 0, merge_size = 0;
  int64_t min_pixels = 0, max_pixels = 0;
  std::optional<int64_t> max_side;
  Fit fit = Fit::area;
  Layout layout = Layout::blocks;
  bool newline = false;  // whether another feature stands behind those of each row
  std::string between_rows;
  std::optional<double> zoom;

  int64_t unit() const { return patch_size * merge_size; }
};

// Pieces of an image, beside the tile of the whole.
struct CropRecipe {
  enum class Fit { grid, window };
  int64_t side = 0, features = 0;
  Fit fit = Fit::grid;
  int64_t min_pieces = 1, max_pieces = 1;
  std::optional<int64_t> largest;
  std::string before, behind, between_rows;
  bool joined = false;  // rows of features run across the pieces of a row, and have an end

  // Of a row of pieces beside theirs: as many as a piece has rows of features, if they have ends.
  int64_t ends() const;
};

struct TileRecipe : ImageRecipe {
  enum class Fit { whole, aspect, scale, corner, middle };
  int64_t height = 0, width = 0, features = 0, separators = 0;
  Fit fit = Fit::whole;
  int64_t min_tiles = 1, max_tiles = 1;
  bool enlarge = false;
  int64_t min_side = 1;
  std::array<uint8_t, 3> fill{};
  bool masked = false;
  std::optional<int64_t> max_side;
  std::optional<double> max_aspect;
  std::string between_columns, behind_row, before_whole;
  std::optional<CropRecipe> crops;
};

// Each raises Error(unsafe) naming the field for what moe_export/dialogue.py refuses, and for sizes
// beyond what any image has.
PatchRecipe read_patches(const Field& value);
TileRecipe read_tiles(const Field& value);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_RECIPE_H_
