// The manifest of a bundle, moe_export.json, as docs/bundle.md specifies it.
//
// The reader checks every field that moe_export/manifest.py checks and keeps those that running needs.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_MANIFEST_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_MANIFEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace moe::runtime {

constexpr const char* kManifestName = "moe_export.json";
constexpr int64_t kSchemaVersion = 7;
constexpr uint64_t kMaxManifestBytes = 16u << 20;
// Of a large file that is digested in pieces; the last may be shorter.
constexpr uint64_t kPieceBytes = uint64_t{1} << 26;

struct FileRecord {
  std::string sha256;
  uint64_t bytes = 0;
  std::vector<std::string> pieces;
};

// An axis: a number, a name, or nothing known.
struct Dimension {
  std::optional<int64_t> size;
  std::string name;
  bool operator==(const Dimension& other) const {
    return size == other.size && name == other.name;
  }
};

struct TensorInfo {
  std::string name, dtype;
  std::vector<Dimension> shape;
  std::string words() const;  // "x float32 [batch, 4]"
};

struct ComponentRecord {
  std::string graph, probe_graph, expert_graph, replay_graph;
  std::optional<std::string> engine_graph;
  std::string data;
  std::vector<std::string> also_reads;
  std::vector<TensorInfo> inputs, outputs;
  std::map<std::string, std::string> in_place;  // an output to the input where it may lie
  std::vector<std::string> graphs() const;
};

struct KernelNeeds {
  int64_t abi = 0, panels = 0;
};

struct Profile {
  std::vector<int64_t> least, best, most;
};

struct EngineRecord {
  std::string component, plan;
  int64_t sm = 0;
  std::string tensorrt;
  std::optional<std::string> plugins_sha256;
  bool embeds_plugins = false;
  std::vector<std::map<std::string, Profile>> profiles;  // by input
};

struct Manifest {
  std::string tool_version, source, target, device, verdict, golden, digest;
  std::optional<KernelNeeds> kernels;
  std::map<std::string, ComponentRecord> components;
  std::vector<EngineRecord> engines;
  std::vector<std::string> assets;
  std::map<std::string, FileRecord> files;
  int64_t parameters = 0;

  // Raises Error(unsafe) naming `file` and the field.
  static Manifest from_json(std::string_view content, const std::string& file);
};

// Reads an object that names no file and no tensor, and checks it; implemented in layers.cc.
void check_precision(const Field& field);
void check_block(const Field& field);

// Both in paths.cc.  No two of the names meet on a file system that ignores case, none is a folder of
// another, and each is a path; or the reason why not.
std::optional<std::string> why_no_names(const std::map<std::string, FileRecord>& files);
// `path` names a place inside a bundle on every system, or the reason why it does not.
std::optional<std::string> why_no_path(std::string_view path);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_MANIFEST_H_
