// A verified model on disk.
#ifndef MOE_EXPORT_BUNDLE_HPP_
#define MOE_EXPORT_BUNDLE_HPP_

#include <string>
#include <vector>

#include "moe_export/error.hpp"

namespace moe {

// A verified model on disk.
class Bundle {
 public:
  // Opens it after every file was found to be what its manifest says.  Without `verify` the SHA-256 of
  // the files are left out, one pass over all bytes, and nothing else.
  static Bundle open(const std::string& path, bool verify = true) {
    detail::check_abi();
    moe_export_open_options options{};
    options.size = sizeof options;
    options.skip_digests = verify ? 0 : 1;
    moe_export_bundle* made = nullptr;
    detail::check(moe_export_bundle_open(path.c_str(), &options, &made));
    return Bundle(made);
  }

  std::string path() const { return moe_export_bundle_path(handle_.get()); }
  std::string target() const { return moe_export_bundle_target(handle_.get()); }
  // SHA-256 of the manifest: the bundle's identity.
  std::string digest() const { return moe_export_bundle_digest(handle_.get()); }
  std::vector<std::string> components() const {
    std::vector<std::string> made;
    for (size_t i = 0; i < moe_export_bundle_component_count(handle_.get()); ++i) {
      made.emplace_back(moe_export_bundle_component(handle_.get(), i));
    }
    return made;
  }

  const moe_export_bundle* handle() const { return handle_.get(); }

 private:
  explicit Bundle(moe_export_bundle* made) : handle_(made) {}
  detail::Owned<moe_export_bundle> handle_;
};

}  // namespace moe

#endif  // MOE_EXPORT_BUNDLE_HPP_
