// The native kernels of the moe_export ops: where their library is, and whether it is the right one.
//
// Native code comes with this library or from where the user says, never out of a bundle.  The twin of
// moe_export/runtime/kernels.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_KERNELS_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_KERNELS_H_

#include <string>

#include "bundle/manifest.h"

namespace moe::runtime {

// The library: `wanted`, else what MOE_EXPORT_ORT_LIBRARY names, else what lies beside this library.
// Raises Error(environment) where it is not there, cannot be loaded, is of another ABI or of other
// panels than the bundle `needs`, or where MOE_EXPORT_CPU names a level that is not to be had.
std::string kernels_for(const KernelNeeds& needs, const std::string& wanted,
                        const std::string& where);

// The folder that this library lies in.
std::string own_folder();

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_KERNELS_H_
