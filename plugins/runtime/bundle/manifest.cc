#include "bundle/manifest.h"

#include <algorithm>
#include <set>

#include "core/sha256.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

bool is_sha256(std::string_view text) {
  return text.size() == 64 &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::map<std::string, std::string> texts_of(const Field& field) {
  std::map<std::string, std::string> made;
  for (const auto& [name, item] : field.mapping()) made[name] = item.text();
  return made;
}

FileRecord file_record(const Field& field) {
  Members members(field);
  FileRecord made;
  made.sha256 = members.at("sha256").text();
  const int64_t bytes = members.at("bytes").integer();
  made.pieces = members.at("pieces").texts();
  members.done();
  bool digests = is_sha256(made.sha256);
  for (const std::string& piece : made.pieces) digests = digests && is_sha256(piece);
  if (!digests) members.refuse("sha256 is not 64 lower-case hexadecimal digits");
  if (bytes < 0) members.refuse("bytes is negative");
  made.bytes = static_cast<uint64_t>(bytes);
  const uint64_t count = made.bytes / kPieceBytes + (made.bytes % kPieceBytes != 0);
  if (!made.pieces.empty() && made.pieces.size() != std::max<uint64_t>(count, 2)) {
    members.refuse(std::to_string(made.pieces.size()) + " pieces of " + std::to_string(bytes) +
                   " bytes");
  }
  return made;
}

TensorInfo tensor_info(const Field& field) {
  Members members(field);
  TensorInfo made;
  made.name = members.at("name").text();
  made.dtype = members.at("dtype").text();
  for (const Field& dim : members.at("shape").list()) {
    if (dim.null()) {
      made.shape.push_back({});
    } else if (dim.value().is_string()) {
      made.shape.push_back({std::nullopt, dim.text()});
    } else {
      made.shape.push_back({dim.integer(), ""});
      if (*made.shape.back().size < 0) {
        members.refuse(in_quotes(made.name) + " has a negative dimension");
      }
    }
  }
  members.done();
  return made;
}

std::vector<TensorInfo> tensor_infos(const Field& field) {
  std::vector<TensorInfo> made;
  for (const Field& item : field.list()) made.push_back(tensor_info(item));
  return made;
}

void check_probes(const Members& members, const Field& probes, std::vector<std::string> layers) {
  static const std::set<std::string> kRoles = {"x",        "y",            "router_logits",
                                               "topk_ids", "topk_weights", "experts_y"};
  std::vector<std::string> probed;
  for (const auto& [layer, roles] : probes.mapping()) {
    probed.push_back(layer);
    for (const auto& [role, value] : texts_of(roles)) {
      if (kRoles.count(role) == 0) {
        members.refuse("layer " + in_quotes(layer) + " has a probe " + in_quotes(role));
      }
    }
  }
  std::sort(layers.begin(), layers.end());
  if (layers != probed) members.refuse("layers and probes are not of the same MoE layers");
}

void check_in_place(const Members& members, const ComponentRecord& record) {
  std::map<std::string, std::string> taken, made;
  for (const TensorInfo& info : record.inputs) taken[info.name] = info.dtype;
  for (const TensorInfo& info : record.outputs) made[info.name] = info.dtype;
  std::set<std::string> places;
  for (const auto& [output, given] : record.in_place) {
    if (!places.insert(given).second) members.refuse("in_place has two outputs in one place");
    const auto from = taken.find(given);
    const auto to = made.find(output);
    if (to == made.end() || from == taken.end() || from->second != to->second) {
      members.refuse("in_place has " + in_quotes(output) + " where " + in_quotes(given) + " lies");
    }
  }
}

ComponentRecord component_record(const Field& field) {
  Members members(field);
  ComponentRecord made;
  made.graph = members.at("graph").text();
  made.probe_graph = members.at("probe_graph").text();
  made.expert_graph = members.at("expert_graph").text();
  made.replay_graph = members.at("replay_graph").text();
  if (const auto engine = members.nullable("engine_graph")) made.engine_graph = engine->text();
  members.at("plugins").texts();
  made.data = members.at("data").text();
  made.also_reads = members.at("also_reads").texts();
  made.inputs = tensor_infos(members.at("inputs"));
  made.outputs = tensor_infos(members.at("outputs"));
  const Field probes = members.at("probes");
  const std::vector<std::string> layers = members.at("layers").texts();
  texts_of(members.at("modules"));
  members.at("dense").texts();
  made.in_place = texts_of(members.at("in_place"));
  members.done();
  check_in_place(members, made);
  check_probes(members, probes, layers);
  return made;
}

std::map<std::string, Profile> profile(const Members& members, const Field& field) {
  std::map<std::string, Profile> made;
  for (const auto& [name, item] : field.mapping()) {
    const std::vector<Field> shapes = item.list();
    std::vector<std::vector<int64_t>> sizes;
    for (const Field& shape : shapes) sizes.push_back(shape.integers());
    bool ordered = sizes.size() == 3 && sizes[0].size() == sizes[1].size() &&
                   sizes[1].size() == sizes[2].size();
    for (size_t i = 0; ordered && i < sizes[0].size(); ++i) {
      ordered = 0 <= sizes[0][i] && sizes[0][i] <= sizes[1][i] && sizes[1][i] <= sizes[2][i];
    }
    if (!ordered) members.refuse("a profile has sizes of " + in_quotes(name) + " out of order");
    made[name] = {sizes[0], sizes[1], sizes[2]};
  }
  return made;
}

EngineRecord engine_record(const Field& field) {
  Members members(field);
  EngineRecord made;
  made.component = members.at("component").text();
  made.plan = members.at("plan").text();
  made.sm = members.at("sm").integer();
  made.tensorrt = members.at("tensorrt").text();
  if (const auto digest = members.nullable("plugins_sha256")) made.plugins_sha256 = digest->text();
  made.embeds_plugins = members.at("embeds_plugins").boolean();
  for (const Field& item : members.at("profiles").list()) {
    made.profiles.push_back(profile(members, item));
  }
  members.done();
  if (made.plugins_sha256 && !is_sha256(*made.plugins_sha256)) {
    members.refuse("plugins_sha256 is not 64 lower-case hexadecimal digits");
  }
  return made;
}

void check_rounding(const Field& field) {
  Members members(field);
  const auto outputs = members.at("outputs").mapping();
  for (const auto& [name, item] : outputs) {
    Members cost(item);
    cost.at("relative_error").number();
    cost.at("cosine").number();
    cost.done();
  }
  for (const auto& [layer, share] : members.at("routing").mapping()) share.number();
  members.done();
  if (outputs.empty()) members.refuse("the cost of rounding has an output at least");
}

void check_listed(const Members& members, const Manifest& manifest) {
  const auto listed = [&](const std::string& path) {
    if (manifest.files.count(path) == 0) members.refuse(in_quotes(path) + " is not in files");
  };
  listed(manifest.golden);
  for (const std::string& asset : manifest.assets) listed(asset);
  for (const EngineRecord& engine : manifest.engines) listed(engine.plan);
  std::set<std::string> stored;
  for (const auto& [name, component] : manifest.components) {
    for (const std::string& graph : component.graphs()) listed(graph);
    listed(component.data);
    stored.insert(component.data);
  }
  for (const auto& [name, component] : manifest.components) {
    for (const std::string& other : component.also_reads) {
      if (other == component.data || stored.count(other) == 0) {
        members.refuse(in_quotes(name) + " also reads what is no other component's data");
      }
    }
  }
}

Manifest decoded(const json& value, const std::string& file) {
  Members members(value, file);
  Manifest made;
  members.find("digest");
  members.at("schema_version").integer();
  {
    Members tool(members.at("tool"));
    tool.at("name").text();
    made.tool_version = tool.at("version").text();
    tool.done();
  }
  texts_of(members.at("versions"));
  {
    Members source(members.at("source"));
    made.source = source.at("description").text();
    source.at("fingerprint").text();
    source.done();
  }
  made.target = members.at("target").text();
  if (const auto field = members.nullable("kernels")) {
    Members kernels(*field);
    made.kernels = KernelNeeds{kernels.at("abi").integer(), kernels.at("panels").integer()};
    kernels.done();
  }
  check_precision(members.at("precision"));
  check_precision(members.at("dense_precision"));
  if (const auto rounding = members.nullable("rounding")) check_rounding(*rounding);
  {
    Members ops(members.at("ops"));
    ops.at("domain").text();
    ops.at("version").integer();
    ops.done();
  }
  for (const auto& [name, item] : members.at("components").mapping()) {
    made.components.emplace(name, component_record(item));
  }
  for (const Field& item : members.at("engines").list()) made.engines.push_back(engine_record(item));
  for (const Field& item : members.at("blocks").list()) check_block(item);
  texts_of(members.at("unused"));
  texts_of(members.at("functions"));
  made.parameters = members.at("parameters").integer();
  made.assets = members.at("assets").texts();
  made.golden = members.at("golden").text();
  made.verdict = members.at("verdict").choice({"not validated", "passed", "failed"});
  made.device = members.at("device").choice({"cpu", "cuda"});
  for (const auto& [path, item] : members.at("files").mapping()) {
    made.files.emplace(path, file_record(item));
  }
  members.done();
  if (made.parameters < 0) members.refuse("parameters is negative");
  if (made.components.empty()) members.refuse("components is empty");
  if (const auto reason = why_no_names(made.files)) members.refuse(*reason);
  check_listed(members, made);
  return made;
}

void check_schema_version(const json& value, const std::string& file) {
  const auto found = value.find("schema_version");
  const bool number = found != value.end() && found->is_number_integer();
  if (number && *found == kSchemaVersion) return;
  const std::string shown = found == value.end() ? "none" : found->dump().substr(0, 40);
  throw Error(Kind::unsafe,
              "unknown schema version " + printable(shown) + "; this release reads " +
                  std::to_string(kSchemaVersion),
              file + ", field schema_version", "a newer moe-export may read this bundle");
}

// SHA-256 of the text with zeros in place of its digest.
std::string checked_digest(std::string_view content, const json& value, const std::string& file) {
  const auto found = value.find("digest");
  const std::string where = file + ", field digest";
  if (found == value.end() || !found->is_string() || !is_sha256(found->get<std::string>())) {
    throw Error(Kind::unsafe, "not 64 lower-case hexadecimal digits", where);
  }
  const std::string digest = found->get<std::string>();
  std::string blank(content);
  for (size_t at = 0; (at = blank.find(digest, at)) != std::string::npos; at += digest.size()) {
    blank.replace(at, digest.size(), digest.size(), '0');
  }
  if (sha256(blank) != digest) {
    throw Error(Kind::unsafe, "the manifest was changed after it was written", where,
                "export the model again, or fetch the bundle again");
  }
  return digest;
}

}  // namespace

std::string TensorInfo::words() const {
  std::string text = printable(name) + " " + printable(dtype) + " [";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    const Dimension& dim = shape[i];
    text += dim.size ? std::to_string(*dim.size) : dim.name.empty() ? "?" : printable(dim.name);
  }
  return text + "]";
}

std::vector<std::string> ComponentRecord::graphs() const {
  std::vector<std::string> made = {graph, probe_graph, expert_graph, replay_graph};
  if (engine_graph) made.push_back(*engine_graph);
  return made;
}

Manifest Manifest::from_json(std::string_view content, const std::string& file) {
  if (content.size() > kMaxManifestBytes) {
    throw Error(Kind::unsafe,
                "a manifest of more than " + std::to_string(kMaxManifestBytes) + " bytes", file);
  }
  const json value = parse(content, file);
  if (!value.is_object()) throw Error(Kind::unsafe, "a manifest is a JSON object", file);
  check_schema_version(value, file);
  Manifest made = decoded(value, file);
  made.digest = checked_digest(content, value, file);
  return made;
}

}  // namespace moe::runtime
