// Names of files that mean the same on every system.
#include <set>

#include "bundle/casefold.h"
#include "bundle/manifest.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

constexpr size_t kMaxFiles = 10000;
// What ext4, XFS, APFS and NTFS allow for one name, and Linux for a path less a folder to put it in.
constexpr size_t kMaxSegment = 255, kMaxPath = 2048;

}  // namespace

std::optional<std::string> why_no_path(std::string_view path) {
  if (path.empty()) return "an empty path";
  const std::string shown = "path " + in_quotes(path);
  if (path.front() == '/') return shown + " is absolute";
  for (const char letter : path) {
    const auto byte = static_cast<uint8_t>(letter);
    if (letter == '\\' || letter == ':' || byte < 32 || byte == 127) {
      return shown + " holds a backslash, a colon or a control character";
    }
  }
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string_view segment = path.substr(start, end - start);
    if (segment.empty() || segment == "." || segment == "..") {
      return shown + " has a segment " + in_quotes(segment);
    }
    if (segment.size() > kMaxSegment) return shown + " has a segment over 255 bytes";
    start = end + 1;
  }
  if (path.size() > kMaxPath) return shown + " is over 2048 bytes";
  return std::nullopt;
}

std::optional<std::string> why_no_names(const std::map<std::string, FileRecord>& files) {
  if (files.size() > kMaxFiles) return "files names more than " + std::to_string(kMaxFiles) + " files";
  std::set<std::string> folders, names = {casefolded(kManifestName)};
  for (const auto& [path, record] : files) {
    if (const auto reason = why_no_path(path)) return reason;
    for (std::string folder = path; !folder.empty();) {
      const size_t slash = folder.rfind('/');
      folder.resize(slash == std::string::npos ? 0 : slash);
      if (!folder.empty()) folders.insert(folder);
    }
    if (!names.insert(casefolded(path)).second) {
      return "files names one file twice, or the manifest itself";
    }
  }
  for (const std::string& folder : folders) {
    if (names.count(casefolded(folder)) != 0) {
      return "files has " + in_quotes(folder) + " as a file and as a folder";
    }
  }
  return std::nullopt;
}

}  // namespace moe::runtime
