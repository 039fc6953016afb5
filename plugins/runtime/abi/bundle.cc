#include "abi/handles.h"

using moe::runtime::Bundle;
using namespace moe::runtime::abi;

uint32_t moe_export_abi_version(void) { return MOE_EXPORT_ABI_VERSION; }
const char* moe_export_version(void) { return MOE_EXPORT_VERSION; }

moe_export_error* moe_export_bundle_open(const char* path, const moe_export_open_options* options,
                                         moe_export_bundle** bundle) {
  return guarded([&] {
    require(path, "path");
    require(bundle, "bundle");
    const auto asked = known(options, "moe_export_open_options");
    auto opened = std::make_shared<const Bundle>(Bundle::open(path, asked.skip_digests == 0));
    *bundle = new moe_export_bundle{std::move(opened)};
  });
}

void moe_export_bundle_free(moe_export_bundle* bundle) { delete bundle; }

const char* moe_export_bundle_path(const moe_export_bundle* bundle) {
  return bundle->bundle->path().c_str();
}
const char* moe_export_bundle_target(const moe_export_bundle* bundle) {
  return bundle->bundle->manifest().target.c_str();
}
const char* moe_export_bundle_digest(const moe_export_bundle* bundle) {
  return bundle->bundle->manifest().digest.c_str();
}
size_t moe_export_bundle_component_count(const moe_export_bundle* bundle) {
  return bundle->bundle->manifest().components.size();
}
const char* moe_export_bundle_component(const moe_export_bundle* bundle, size_t index) {
  const auto& components = bundle->bundle->manifest().components;
  if (index >= components.size()) return nullptr;
  return std::next(components.begin(), static_cast<std::ptrdiff_t>(index))->first.c_str();
}
