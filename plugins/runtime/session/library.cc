#include "session/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "core/files.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

constexpr const char* kVariable = "MOE_EXPORT_ONNXRUNTIME";
constexpr const char* kHint =
    "install ONNX Runtime 1.24 or newer, or name its library, or the folder of the Python package "
    "onnxruntime, in MOE_EXPORT_ONNXRUNTIME";

using GetApiBase = const ort::OrtApiBase* (*)();

struct Found {
  GetApiBase get;
  std::string path;
};

// The library in a folder, or in `capi` below as the Python package has it.
std::string library_in(const std::string& folder) {
  std::vector<std::string> found;
  for (const std::string& place : {folder, folder + "/capi", folder + "/onnxruntime/capi"}) {
    if (!is_folder(place)) continue;
    for (const Entry& entry : entries_of(place)) {
      if (entry.name.rfind("libonnxruntime.so", 0) == 0) found.push_back(place + "/" + entry.name);
    }
  }
  std::sort(found.begin(), found.end());
  return found.empty() ? "" : found.front();
}

Found opened(const std::string& name, std::string* why) {
  void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* get = library != nullptr ? ::dlsym(library, "OrtGetApiBase") : nullptr;
  if (get == nullptr) {
    const char* reason = ::dlerror();
    *why = reason != nullptr ? reason : "it has no OrtGetApiBase";
    if (library != nullptr) ::dlclose(library);
    return {nullptr, ""};
  }
  return {reinterpret_cast<GetApiBase>(get), name};
}

Found named(const std::string& wanted, const std::string& where) {
  const std::string path = is_folder(wanted) ? library_in(wanted) : wanted;
  if (path.empty()) {
    throw Error(Kind::environment, "no libonnxruntime.so lies in this folder", where, kHint);
  }
  std::string why;
  const Found found = opened(path, &why);
  if (found.get == nullptr) {
    throw Error(Kind::environment, "ONNX Runtime cannot be loaded: " + first_line(why), where,
                kHint);
  }
  return found;
}

Found found_by(const std::string& wanted) {
  if (!wanted.empty()) return named(wanted, wanted);
  const char* variable = std::getenv(kVariable);
  if (variable != nullptr && *variable != '\0') {
    return named(variable, std::string(kVariable) + "=" + variable);
  }
  // A program that links ONNX Runtime, or has loaded it for all to see, shares it.
  if (void* get = ::dlsym(RTLD_DEFAULT, "OrtGetApiBase")) {
    return {reinterpret_cast<GetApiBase>(get), ""};
  }
  std::string why;
  for (const char* name : {"libonnxruntime.so.1", "libonnxruntime.so"}) {
    const Found found = opened(name, &why);
    if (found.get != nullptr) return found;
  }
  throw Error(Kind::environment, "ONNX Runtime is not found: " + first_line(why), "this machine",
              kHint);
}

const OnnxRuntime* load(const std::string& wanted) {
  const Found found = found_by(wanted);
  const ort::OrtApiBase* base = found.get();
  auto made = std::make_unique<OnnxRuntime>();
  made->path = found.path;
  made->version = base->GetVersionString();
  made->api = base->GetApi(ort::kApiVersion);
  if (made->api == nullptr || !made->is_at_least(1, 24)) {
    throw Error(Kind::environment, "this is ONNX Runtime " + made->version + ", too old", found.path,
                kHint);
  }
  const ort::OrtApi* api = made->api;
  const auto done = [api](ort::OrtStatus* status) {
    if (status == nullptr) return;
    const std::string message = first_line(api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    throw Error(Kind::environment, "ONNX Runtime does not start: " + message);
  };
  // Only what ends the process is logged; everything else reaches the caller as an error.
  done(api->CreateEnv(ort::ORT_LOGGING_LEVEL_FATAL, "moe_export", &made->env));
  done(api->CreateCpuMemoryInfo(ort::OrtDeviceAllocator, ort::OrtMemTypeDefault, &made->cpu));
  done(api->GetAllocatorWithDefaultOptions(&made->allocator));
  return made.release();
}

std::mutex mutex;
const OnnxRuntime* the_one = nullptr;

}  // namespace

const OnnxRuntime& OnnxRuntime::loaded(const std::string& wanted) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (the_one == nullptr) {
    the_one = load(wanted);
  } else if (!wanted.empty()) {
    const std::string path = is_folder(wanted) ? library_in(wanted) : wanted;
    if (path != the_one->path && resolved(path) != resolved(the_one->path)) {
      throw Error(Kind::usage, "this process uses another ONNX Runtime already", wanted,
                  "name the same one everywhere: " +
                      (the_one->path.empty() ? "the process's own" : the_one->path));
    }
  }
  return *the_one;
}

const OnnxRuntime& OnnxRuntime::here() { return *the_one; }

bool OnnxRuntime::is_at_least(int major, int minor) const {
  int here[2] = {0, 0};
  std::sscanf(version.c_str(), "%d.%d", &here[0], &here[1]);
  return here[0] > major || (here[0] == major && here[1] >= minor);
}

void OrtRelease::operator()(ort::OrtSession* made) const {
  OnnxRuntime::here().api->ReleaseSession(made);
}
void OrtRelease::operator()(ort::OrtSessionOptions* made) const {
  OnnxRuntime::here().api->ReleaseSessionOptions(made);
}
void OrtRelease::operator()(ort::OrtRunOptions* made) const {
  OnnxRuntime::here().api->ReleaseRunOptions(made);
}
void OrtRelease::operator()(ort::OrtValue* made) const {
  OnnxRuntime::here().api->ReleaseValue(made);
}
void OrtRelease::operator()(ort::OrtTypeInfo* made) const {
  OnnxRuntime::here().api->ReleaseTypeInfo(made);
}
void OrtRelease::operator()(ort::OrtTensorTypeAndShapeInfo* made) const {
  OnnxRuntime::here().api->ReleaseTensorTypeAndShapeInfo(made);
}
void OrtRelease::operator()(ort::OrtStatus* made) const {
  OnnxRuntime::here().api->ReleaseStatus(made);
}

bool OrtFailure::out_of_memory() const {
  return message.find("bad allocation") != std::string::npos ||
         message.find("bad_alloc") != std::string::npos ||
         message.find("Failed to allocate memory") != std::string::npos;
}

void check(ort::OrtStatus* status) {
  if (status == nullptr) return;
  const OrtOwned<ort::OrtStatus> owned(status);
  const ort::OrtApi* api = OnnxRuntime::here().api;
  throw OrtFailure{api->GetErrorCode(status), first_line(api->GetErrorMessage(status))};
}

}  // namespace moe::runtime
