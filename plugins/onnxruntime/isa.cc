// Which level of CPU kernels runs: the part of node.h that only a library with them has.
#include "node.h"

namespace moe_ort {

const moe::Isa* isa_of(const Node& node) {
  const char* why = nullptr;
  const moe::Isa* isa = moe::isa_best(&why);
  if (isa == nullptr) throw Fault(node.label() + ": " + (why ? why : "no kernels for this CPU"));
  return isa;
}

}  // namespace moe_ort
