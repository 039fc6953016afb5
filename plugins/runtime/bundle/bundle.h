// A bundle on disk, checked before it is used; the twin of moe_export/runtime/bundle.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_BUNDLE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_BUNDLE_H_

#include <optional>
#include <string>

#include "bundle/manifest.h"

namespace moe::runtime {

class Bundle {
 public:
  // The bundle at `path`, after every file was found to be what the manifest says.
  //
  // Without `verify` the SHA-256 of the files are left out (one pass over all bytes) and nothing else.
  // Raises Error(usage) where there is no bundle and Error(unsafe) for anything not as it was written.
  static Bundle open(const std::string& path, bool verify);

  // The content of an asset such as tokenizer.json; none where there is none.  Checked again.
  std::optional<std::string> asset(const std::string& name) const;

  // Raises Error(usage) naming those there are.
  const ComponentRecord& component(const std::string& name) const;

  // Where the ONNX file of a component's graph lies: `main`, `probe`, `experts` or `replay`.
  std::string graph_path(const std::string& component, const std::string& graph) const;

  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }

 private:
  Bundle(std::string path, Manifest manifest)
      : path_(std::move(path)), manifest_(std::move(manifest)) {}
  std::string path_;
  Manifest manifest_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_BUNDLE_H_
