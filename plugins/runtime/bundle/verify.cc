#include "bundle/verify.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "bundle/wire.h"
#include "core/files.h"
#include "core/sha256.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

// Protocol Buffers end at 2 GiB.
constexpr uint64_t kMaxGraphBytes = (uint64_t{1} << 31) - 1;
constexpr const char* kMakeOne = "moe-export MODEL -o BUNDLE makes one";

// Anything under `root` that is neither a listed file nor a folder that leads to one.
void refuse_unlisted(const std::string& root, const Manifest& manifest) {
  std::set<std::string> folders;
  for (const auto& [path, record] : manifest.files) {
    for (std::string folder = folder_of(path); !folder.empty(); folder = folder_of(folder)) {
      folders.insert(folder);
    }
  }
  std::vector<std::string> waiting = {""};
  while (!waiting.empty()) {
    const std::string folder = waiting.back();
    waiting.pop_back();
    for (const Entry& entry : entries_of(folder.empty() ? root : root + "/" + folder)) {
      const std::string name = folder.empty() ? entry.name : folder + "/" + entry.name;
      if (entry.folder && folders.count(name) != 0) {
        waiting.push_back(name);
      } else if (name != kManifestName && manifest.files.count(name) == 0) {
        throw Error(Kind::unsafe, "not listed in the manifest", root + "/" + printable(name),
                    kDamaged);
      }
    }
  }
}

void check_size(const std::string& path, const FileRecord& record) {
  const uint64_t size = size_of_file(path);
  if (size != record.bytes) {
    throw Error(Kind::unsafe,
                "the file has " + std::to_string(size) + " bytes, the manifest says " +
                    std::to_string(record.bytes),
                path, kDamaged);
  }
}

// Bytes of a file that have a digest of their own.
struct Part {
  std::string path;
  uint64_t offset, length;
  std::string sha256;
  bool piece;
};

std::vector<Part> parts_of(const std::string& root, const Manifest& manifest) {
  std::vector<Part> made;
  for (const auto& [name, record] : manifest.files) {
    const std::string path = root + "/" + name;
    if (record.pieces.empty()) made.push_back({path, 0, record.bytes, record.sha256, false});
    uint64_t offset = 0;
    for (const std::string& piece : record.pieces) {
      made.push_back({path, offset, kPieceBytes, piece, true});
      offset += kPieceBytes;
    }
  }
  return made;
}

void compare(const Part& part, const std::string& digest) {
  if (digest == part.sha256) return;
  const std::string what =
      part.piece ? "the SHA-256 from byte " + std::to_string(part.offset) : "the file's SHA-256";
  throw Error(Kind::unsafe, what + " is " + digest + ", the manifest says " + part.sha256,
              part.path, kDamaged);
}

// All digests, a core each.  Of several that differ the first is told.
void check_digests(const std::vector<Part>& parts) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  size_t first = parts.size();
  std::exception_ptr failure;
  const auto work = [&] {
    for (size_t i = next++; i < parts.size(); i = next++) {
      try {
        compare(parts[i], digest_of_file(parts[i].path, parts[i].offset, parts[i].length));
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (i < first) first = i, failure = std::current_exception();
        next = parts.size();
      }
    }
  };
  const size_t cores = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> others;
  for (size_t i = 1; i < std::min(cores, parts.size()); ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

// A graph reads nothing but the component's data files, whose sizes these are by path.
void check_references(const std::string& graph, const std::string& path,
                      const std::map<std::string, uint64_t>& sizes) {
  const std::string folder = folder_of(path);
  std::map<std::string, std::string> paths;
  for (const auto& [name, size] : sizes) {
    if (folder_of(name) == folder) paths[name.substr(folder.empty() ? 0 : folder.size() + 1)] = name;
  }
  for (const ExternalData& reference : external_data(graph)) {
    // Compared as text, so that "../onnx/x" and ONNX Runtime's own magic names (the address of
    // memory is one) are refused with all others.
    const auto found = paths.find(reference.location);
    const std::string tensor = "tensor " + in_quotes(reference.tensor) + " reads ";
    if (found == paths.end()) {
      throw WireFault(tensor + in_quotes(reference.location, 200) +
                      ", not one of the component's own data files");
    }
    const uint64_t size = sizes.at(found->second);
    if (reference.offset + reference.length > size) {
      throw WireFault(tensor + std::to_string(reference.length) + " bytes at " +
                      std::to_string(reference.offset) + " of " + in_quotes(found->second) +
                      ", which has " + std::to_string(size));
    }
  }
}

void check_graphs(const std::string& root, const ComponentRecord& component,
                  const Manifest& manifest) {
  std::map<std::string, uint64_t> sizes = {{component.data, manifest.files.at(component.data).bytes}};
  for (const std::string& path : component.also_reads) {
    sizes[path] = manifest.files.at(path).bytes;
  }
  std::set<std::string> seen;
  for (const std::string& name : component.graphs()) {
    if (!seen.insert(name).second) continue;
    const std::string path = root + "/" + name;
    const uint64_t size = size_of_file(path);
    if (size > kMaxGraphBytes) throw Error(Kind::unsafe, "a graph of 2 GiB or more", path);
    try {
      check_references(read_file(path, size), name, sizes);
    } catch (const WireFault& fault) {
      throw Error(Kind::unsafe, std::string("not an acceptable ONNX graph: ") + fault.what(), path);
    }
  }
}

}  // namespace

std::string find_bundle(const std::string& path) {
  if (!is_folder(path)) {
    throw Error(Kind::usage,
                is_file(path) ? "a bundle is a folder, not a file" : "there is no bundle here",
                printable(path, 4096), kMakeOne);
  }
  if (!exists(path + "/" + kManifestName)) {
    throw Error(Kind::usage, std::string("not a bundle: it has no ") + kManifestName,
                printable(path, 4096), kMakeOne);
  }
  return resolved(path);
}

Manifest read_manifest(const std::string& root) {
  const std::string path = root + "/" + kManifestName;
  const uint64_t size = size_of_file(path);
  if (size > kMaxManifestBytes) {
    throw Error(Kind::unsafe,
                "a manifest of more than " + std::to_string(kMaxManifestBytes) + " bytes", path);
  }
  return Manifest::from_json(read_file(path, size), path);
}

void check_files(const std::string& root, const Manifest& manifest, bool digests) {
  refuse_unlisted(root, manifest);
  for (const auto& [path, record] : manifest.files) check_size(root + "/" + path, record);
  if (digests) check_digests(parts_of(root, manifest));
  for (const auto& [name, component] : manifest.components) {
    check_graphs(root, component, manifest);
  }
}

std::string read_checked(const std::string& path, const FileRecord& record) {
  check_size(path, record);
  std::string content = read_file(path, record.bytes);
  compare({path, 0, record.bytes, record.sha256, false}, sha256(content));
  return content;
}

}  // namespace moe::runtime
