// How a bundle of one graph is asked: generation_config.json and preprocessor_config.json.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_ASK_SINGLE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_ASK_SINGLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/array.h"
#include "image/image.h"
#include "text/tokenizer.h"

namespace moe::runtime {

// Which input and output are text, and when to stop.
struct GenerationConfig {
  std::string text_input;
  int64_t eos_token_id = 0, pad_token_id = 0;
  int64_t max_new_tokens = 0;
  int64_t max_length = 0;  // of prompt and answer together, in tokens
  // [B, S, V] over the text positions; the graph's first output where there is none.
  std::optional<std::string> logits_output;

  // Raises Error(unsupported) for a setting that it does not know, Error(unsafe) for what it is not.
  static GenerationConfig read(std::string_view bytes, const std::string& where);

  // The ids of a prompt.  Raises Error(usage) for one without tokens or of too many.
  std::vector<int64_t> encode(std::string_view prompt, const Tokenizer& tokenizer) const;
};

// An image as the graph's input: converted to grey or RGB, resized (bilinear), then
// y = (pixel * rescale_factor - image_mean) / image_std by channel, in float32.
struct ImagePreprocessor {
  enum class Layout { hw, chw, hwc };
  std::string image_input;
  int64_t height = 0, width = 0;
  bool grey = false;
  double rescale_factor = 1.0 / 255;
  Layout layout = Layout::chw;
  std::optional<std::vector<double>> image_mean, image_std;

  // Raises Error(unsupported) for a setting that it does not know, Error(unsafe) for what it is not.
  static ImagePreprocessor read(std::string_view bytes, const std::string& where);

  // Of what `prepare` returns: one image, without a batch axis.
  std::vector<int64_t> shape() const;

  // float32, of `shape`.
  Array prepare(const Image& image) const;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_ASK_SINGLE_H_
