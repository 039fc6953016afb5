// A plugin library, opened as TensorRT opens it.
#ifndef MOE_EXPORT_PLUGINS_TESTS_TENSORRT_LIBRARY_H_
#define MOE_EXPORT_PLUGINS_TESTS_TENSORRT_LIBRARY_H_

#include <string>
#include <vector>

#include <NvInferRuntime.h>

namespace moe_trt_tests {

// What TensorRT would not have taken, or would have shown to its user.
struct Failure {
  std::string text;
};

class Library {
 public:
  explicit Library(const std::string& path);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  const std::vector<nvinfer1::IPluginCreatorV3One*>& creators() const { return creators_; }
  nvinfer1::IPluginCreatorV3One& creator(const std::string& name) const;

 private:
  void* handle_;
  std::vector<nvinfer1::IPluginCreatorV3One*> creators_;
};

}  // namespace moe_trt_tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_TENSORRT_LIBRARY_H_
