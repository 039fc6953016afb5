// Where an ONNX graph keeps data outside itself, read from its bytes without ONNX.
//
// ONNX files are Protocol Buffers.  Only the fields that lead to a tensor are known here, numbered as
// in onnx.proto; everything else is stepped over.  The twin of moe_export/runtime/wire.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_WIRE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_WIRE_H_

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace moe::runtime {

// Bytes of a tensor that lie at `offset` of another file, `length` of them.
struct ExternalData {
  std::string tensor, location;
  uint64_t offset, length;
};

// Bytes that are no acceptable graph, in words.
struct WireFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Every reference of a serialized ModelProto to data outside itself, at any depth.  Raises WireFault
// where the bytes are no message, or a reference does not say where its data begins and ends.
std::vector<ExternalData> external_data(std::string_view model);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_WIRE_H_
