// How tokens become text again.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_DECODER_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_DECODER_H_

#include <memory>
#include <string>
#include <vector>

#include "text/part.h"

namespace moe::runtime {

class Decoder {
 public:
  virtual ~Decoder() = default;
  // The texts that the tokens become, to be joined or given to the next decoder.
  virtual std::vector<std::string> decode(std::vector<std::string> tokens) const = 0;
};

// Raises Error(unsafe) for what is none, Error(unsupported) for one that is not known.
std::unique_ptr<Decoder> read_decoder(const Field& value, const std::string& where);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_DECODER_H_
