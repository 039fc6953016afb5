#include "core/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/error.h"
#include "core/sha256.h"

namespace moe::runtime {

const char* const kDamaged =
    "the bundle is damaged or was changed: fetch it again, or export the model again";

namespace {

class Descriptor {
 public:
  explicit Descriptor(const std::string& path)
      : path_(path), number_(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)) {
    if (number_ < 0) fail();
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(number_); }

  // Bytes from a place on; fewer at the end alone.
  size_t read(void* into, size_t bytes, uint64_t offset) const {
    size_t done = 0;
    while (done < bytes) {
      auto* at = static_cast<char*>(into) + done;
      const ssize_t got = ::pread(number_, at, bytes - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail();
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

 private:
  [[noreturn]] void fail() const {
    throw Error(Kind::unsafe, std::string("the file cannot be read: ") + std::strerror(errno),
                path_, kDamaged);
  }
  std::string path_;
  int number_;
};

}  // namespace

uint64_t size_of_file(const std::string& path) {
  struct stat facts {};
  if (::lstat(path.c_str(), &facts) != 0) {
    throw Error(Kind::unsafe, "the file is missing", path, kDamaged);
  }
  if (S_ISREG(facts.st_mode)) return static_cast<uint64_t>(facts.st_size);
  const char* what = S_ISLNK(facts.st_mode) ? "a symbolic link" : "not a regular file";
  throw Error(Kind::unsafe, std::string(what) + ", which a bundle never holds", path, kDamaged);
}

std::string read_file(const std::string& path, uint64_t size) {
  const Descriptor file(path);
  std::string content(size, '\0');
  char beyond = 0;
  if (file.read(content.data(), size, 0) != size || file.read(&beyond, 1, size) != 0) {
    throw Error(Kind::unsafe, "the file changed while it was read", path);
  }
  return content;
}

std::string digest_of_file(const std::string& path, uint64_t offset, uint64_t length) {
  constexpr size_t kStep = 1 << 20;
  const Descriptor file(path);
  const auto buffer = std::make_unique<char[]>(std::min<uint64_t>(length, kStep));
  Sha256 digest;
  while (length > 0) {
    const size_t wanted = static_cast<size_t>(std::min<uint64_t>(length, kStep));
    const size_t got = file.read(buffer.get(), wanted, offset);
    digest.update(buffer.get(), got);
    if (got < wanted) break;
    offset += got;
    length -= got;
  }
  return digest.digest();
}

std::vector<Entry> entries_of(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()), &::closedir);
  if (!open) {
    throw Error(Kind::unsafe, std::string("the folder cannot be read: ") + std::strerror(errno),
                folder, kDamaged);
  }
  std::vector<Entry> made;
  while (const dirent* entry = ::readdir(open.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat facts {};
    const bool known = ::lstat((folder + "/" + name).c_str(), &facts) == 0;
    made.push_back({name, known && S_ISDIR(facts.st_mode)});
  }
  return made;
}

bool exists(const std::string& path) {
  struct stat facts {};
  return ::lstat(path.c_str(), &facts) == 0;
}

bool is_folder(const std::string& path) {
  struct stat facts {};
  return ::stat(path.c_str(), &facts) == 0 && S_ISDIR(facts.st_mode);
}

bool is_file(const std::string& path) {
  struct stat facts {};
  return ::stat(path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode);
}

std::string resolved(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> made(::realpath(path.c_str(), nullptr), &std::free);
  return made ? made.get() : "";
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash);
}

}  // namespace moe::runtime
