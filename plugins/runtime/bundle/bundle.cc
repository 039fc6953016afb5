#include "bundle/bundle.h"

#include <algorithm>

#include "bundle/verify.h"
#include "core/words.h"

namespace moe::runtime {

Bundle Bundle::open(const std::string& path, bool verify) {
  const std::string root = find_bundle(path);
  Manifest manifest = read_manifest(root);
  check_files(root, manifest, verify);
  return Bundle(root, std::move(manifest));
}

std::optional<std::string> Bundle::asset(const std::string& name) const {
  const auto& assets = manifest_.assets;
  if (std::find(assets.begin(), assets.end(), name) == assets.end()) return std::nullopt;
  return read_checked(path_ + "/" + name, manifest_.files.at(name));
}

const ComponentRecord& Bundle::component(const std::string& name) const {
  const auto found = manifest_.components.find(name);
  if (found != manifest_.components.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [each, record] : manifest_.components) names.push_back(printable(each));
  throw Error(Kind::usage, "the bundle has no component " + in_quotes(name), path_,
              "it has " + listed(names));
}

std::string Bundle::graph_path(const std::string& component_name, const std::string& graph) const {
  const ComponentRecord& record = component(component_name);
  if (graph == "main") return path_ + "/" + record.graph;
  if (graph == "probe") return path_ + "/" + record.probe_graph;
  if (graph == "experts") return path_ + "/" + record.expert_graph;
  if (graph == "replay") return path_ + "/" + record.replay_graph;
  throw Error(Kind::usage, "no graph " + in_quotes(graph),
              "", "the graphs are main, probe, experts, replay");
}

}  // namespace moe::runtime
