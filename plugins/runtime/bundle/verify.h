// Whether a folder is exactly what its manifest says; the twin of moe_export/runtime/verify.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_VERIFY_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_VERIFY_H_

#include <string>

#include "bundle/manifest.h"

namespace moe::runtime {

// The folder at `path`, resolved.  Raises Error(usage) where there is no bundle.
std::string find_bundle(const std::string& path);

// The manifest of the bundle at `root`, read strictly.
Manifest read_manifest(const std::string& root);

// Refuses a bundle whose files are not exactly the listed ones, as they were written.
void check_files(const std::string& root, const Manifest& manifest, bool digests);

// The content of a file, if it still is what the manifest recorded.
std::string read_checked(const std::string& path, const FileRecord& record);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_VERIFY_H_
