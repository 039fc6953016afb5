// The library of the TensorRT plugins: where it is, and whether an engine was built with it.
//
// It comes with this library or from where the user says; the twin of moe_export/engines/libraries.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TRT_PLUGINS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TRT_PLUGINS_H_

#include <string>

namespace moe::runtime {

// What MOE_EXPORT_TRT_LIBRARY names, else what lies beside this library.  Raises Error(environment) where
// there is none, and Error(unsafe) where its SHA-256 is another than `sha256`.
std::string plugin_library(const std::string& sha256);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_TRT_PLUGINS_H_
