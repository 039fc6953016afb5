// The positions of tokens, for models that count them in other ways than one after the other.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_ASK_POSITIONS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_ASK_POSITIONS_H_

#include <array>
#include <cstdint>
#include <vector>

#include "core/array.h"

namespace moe::runtime {

// [1, count], one after the other.
Array plain_positions(int64_t start, int64_t count);

// [3, 1, S]: time, height and width (Qwen2-VL, multimodal rotary position embedding).
//
// Text counts on all three alike.  The features of an image stand on its grid, all at the time and
// from the height and width where the image begins; text behind it goes on after the longest side.
// With `newline` a row has one feature more than the grid.
// Raises Error(usage) where `ids` hold features of other images than `grids` are of.
Array mrope_positions(const std::vector<int64_t>& ids, int64_t image_token,
                      const std::vector<std::array<int64_t, 3>>& grids, int64_t merge,
                      bool newline = false);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_ASK_POSITIONS_H_
