// In place of TensorRT where its headers were not found.
#include "core/error.h"
#include "session/tensorrt.h"

namespace moe::runtime {

const TensorRt& TensorRt::of(const Flavour& flavour) {
  const std::string title = flavour.title;
  throw Error(Kind::environment, "this libmoe_export was built without " + title,
              std::string("target ") + flavour.target,
              "build it where the headers of " + title +
                  " are, or export with --target ort to run without engines");
}

}  // namespace moe::runtime
