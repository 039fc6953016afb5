// Files of a bundle: regular ones, read whole or digested, never through a symbolic link.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_CORE_FILES_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_CORE_FILES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace moe::runtime {

extern const char* const kDamaged;  // what to do about a bundle that is not as it was written

// Of a regular file.  Raises Error(unsafe) for anything else, and where nothing is.
uint64_t size_of_file(const std::string& path);
// Exactly `size` bytes, all that the file holds; else Error(unsafe).
std::string read_file(const std::string& path, uint64_t size);
// SHA-256 of `length` bytes from `offset`, or of fewer where the file ends.
std::string digest_of_file(const std::string& path, uint64_t offset, uint64_t length);

struct Entry {
  std::string name;
  bool folder;  // a real one, no link to one
};
// What lies in a folder, in no order.
std::vector<Entry> entries_of(const std::string& folder);

// Whether anything is there, a broken link included.
bool exists(const std::string& path);
// Links followed.
bool is_folder(const std::string& path);
bool is_file(const std::string& path);
// Absolute and without links; empty where there is nothing.
std::string resolved(const std::string& path);
// The part in front of the last slash: "" where there is none.
std::string folder_of(const std::string& path);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_CORE_FILES_H_
