// What happens to a text before anything else.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_NORMALIZER_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_NORMALIZER_H_

#include <memory>
#include <string>

#include "text/part.h"

namespace moe::runtime {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual std::string normalize(std::string text) const = 0;
  // Whether the first letter that it gives comes of the first that it takes, for any text.
  virtual bool keeps_start() const = 0;
};

// Raises Error(unsafe) for what is none, Error(unsupported) for one that is not known.
std::unique_ptr<Normalizer> read_normalizer(const Field& value, const std::string& where);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_NORMALIZER_H_
