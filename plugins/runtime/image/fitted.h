// In which size an image becomes whole patches.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_FITTED_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_FITTED_H_

#include "image/image.h"
#include "image/recipe.h"

namespace moe::runtime {

// The size that an image of height x width is resized to: `area` is Qwen2-VL's smart_resize,
// `shrink` Kimi-VL's, `fill` Gemma 4's, `canvas` GLM-5.3's, `shape` Muse's, `count` Nemotron's; `pad`
// leaves it (Inkling 2).  Raises Error(usage) for an image so long and thin that it has none,
// Error(unsafe) where a recipe makes more pixels than any image has.
Size fitted(int64_t height, int64_t width, const PatchRecipe& recipe);

// The whole units around the resized image, in pixels.  Raises what `fitted` does.
Size canvas_of(int64_t height, int64_t width, const PatchRecipe& recipe);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_IMAGE_FITTED_H_
