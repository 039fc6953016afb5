#include "library.h"

#include <dlfcn.h>

#include <cstring>

namespace moe_trt_tests {

namespace {

void* symbol(void* handle, const char* name) {
  if (void* found = dlsym(handle, name)) return found;
  throw Failure{std::string("the library does not export ") + name};
}

}  // namespace

Library::Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr) throw Failure{dlerror()};
  using GetCreators = nvinfer1::IPluginCreatorInterface* const* (*)(int32_t&);
  using SetLoggerFinder = void (*)(nvinfer1::ILoggerFinder*);
  reinterpret_cast<SetLoggerFinder>(symbol(handle_, "setLoggerFinder"))(nullptr);
  int32_t count = 0;
  const auto list = reinterpret_cast<GetCreators>(symbol(handle_, "getCreators"))(count);
  for (int32_t i = 0; i < count; ++i) {
    const nvinfer1::InterfaceInfo info = list[i]->getInterfaceInfo();
    if (std::strcmp(info.kind, "PLUGIN CREATOR_V3ONE") != 0 || info.major != 1) {
      throw Failure{std::string("a creator is a ") + info.kind};
    }
    creators_.push_back(static_cast<nvinfer1::IPluginCreatorV3One*>(list[i]));
  }
}

Library::~Library() { dlclose(handle_); }

nvinfer1::IPluginCreatorV3One& Library::creator(const std::string& name) const {
  for (nvinfer1::IPluginCreatorV3One* creator : creators_) {
    if (name == creator->getPluginName()) return *creator;
  }
  throw Failure{"the library has no plugin " + name};
}

}  // namespace moe_trt_tests
