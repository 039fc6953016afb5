// TensorRT through its C++ interface: compiled against its headers, loaded when it is first needed, never
// linked.  Which TensorRT this is, and which release, the headers say.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "core/error.h"
#include "core/words.h"
#include "session/tensorrt.h"

#if NV_TENSORRT_MAJOR < 10 && !defined(TRT_MAJOR_RTX)
#error "TensorRT 10 or TensorRT-RTX 1 at least: sizes of older ones have 32 bits"
#endif

namespace moe::runtime {

namespace {

#ifdef TRT_MAJOR_RTX
constexpr const char* kTarget = "trt-rtx";
#else
constexpr const char* kTarget = "trt";
#endif
constexpr int32_t kMajor = NV_TENSORRT_MAJOR;
constexpr uintptr_t kFirstPage = 4096;  // where nothing lies

// Keeps the last error, where TensorRT's own logger writes to standard output.  One for the process and
// for good: TensorRT keeps the first that it is given and talks to it from all over.
class Talk final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      error_ = first_line(message);
    } catch (...) {  // no memory for words
    }
  }
  std::string last_words() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return error_.empty() ? "it gives no reason" : error_;
  }
  void forget() {
    const std::lock_guard<std::mutex> lock(mutex_);
    error_.clear();
  }

 private:
  std::mutex mutex_;
  std::string error_;
};

Talk& talk() {
  static Talk* const the_one = new Talk;
  return *the_one;
}

std::optional<DType> dtype_of(nvinfer1::DataType type) {
  using Type = nvinfer1::DataType;
  switch (type) {
    case Type::kFLOAT: return DType::float32;
    case Type::kHALF: return DType::float16;
    case Type::kBF16: return DType::bfloat16;
    case Type::kINT8: return DType::int8;
    case Type::kUINT8: return DType::uint8;
    case Type::kINT32: return DType::int32;
    case Type::kINT64: return DType::int64;
    case Type::kBOOL: return DType::boolean;
    default: return std::nullopt;
  }
}

class Deserialised final : public Plan {
 public:
  Deserialised(std::unique_ptr<nvinfer1::IRuntime> runtime,
               std::unique_ptr<nvinfer1::ICudaEngine> engine,
               std::unique_ptr<nvinfer1::IExecutionContext> context)
      : runtime_(std::move(runtime)), engine_(std::move(engine)), context_(std::move(context)) {}

  std::optional<DType> dtype_of(const char* name) const override {
    return runtime::dtype_of(engine_->getTensorDataType(name));
  }
  bool take_profile(int number, void* stream) override {
    return context_->setOptimizationProfileAsync(number, static_cast<cudaStream_t>(stream));
  }
  bool set_shape(const char* name, const std::vector<int64_t>& shape) override {
    nvinfer1::Dims dims{};
    if (shape.size() > static_cast<size_t>(nvinfer1::Dims::MAX_DIMS)) return false;
    dims.nbDims = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), dims.d);
    return context_->setInputShape(name, dims);
  }
  std::vector<int64_t> shape_of(const char* name) const override {
    const nvinfer1::Dims dims = context_->getTensorShape(name);
    if (dims.nbDims < 0) return {-1};  // a name that the engine does not have
    return {dims.d, dims.d + dims.nbDims};
  }
  bool set_address(const char* name, void* address) override {
    return context_->setTensorAddress(name, address);
  }
  bool enqueue(void* stream) override {
    return context_->enqueueV3(static_cast<cudaStream_t>(stream));
  }

 private:
  // Freed from the last to the first.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

class Library final : public TensorRt {
 public:
  explicit Library(const Flavour& flavour) : flavour_(flavour) {
    const std::string name = std::string(flavour.library) + "." + std::to_string(kMajor);
    void* library = tensorrt_library(flavour, name);
    create_ = function_of<decltype(create_)>(library, "createInferRuntime_INTERNAL");
    registry_ = function_of<decltype(registry_)>(library, "getPluginRegistry");
    version_ = function_of<int32_t (*)()>(library, "getInferLibVersion")();
    if (version_ / 10000 != kMajor) {
      throw Error(Kind::environment,
                  "this is " + std::string(flavour.title) + " " + version() +
                      ", this libmoe_export was built for " + std::to_string(kMajor),
                  name, "install the one, or build the other");
    }
  }

  std::string version() const override {
    return std::to_string(version_ / 10000) + "." + std::to_string(version_ / 100 % 100) + "." +
           std::to_string(version_ % 100);
  }

  bool load_plugins(const std::string& path) const override {
    static std::mutex mutex;
    static std::set<std::string> loaded;
    const std::lock_guard<std::mutex> lock(mutex);
    if (loaded.count(path) > 0) return true;
    talk().forget();
    if (registry_()->loadLibrary(path.c_str()) == nullptr) return false;
    loaded.insert(path);
    return true;
  }

  std::unique_ptr<Plan> deserialised(std::string_view plan, bool host_code) const override {
    talk().forget();
    void* made = create_(&talk(), NV_TENSORRT_VERSION);
    // Where CUDA does not start, 10.15 gives the address of a part of nothing.
    if (reinterpret_cast<uintptr_t>(made) < kFirstPage) {
      throw Error(Kind::environment,
                  std::string(flavour_.title) + " " + version() + " does not start: " + last_words(),
                  std::string("target ") + flavour_.target,
                  "it needs the GPU and the driver of its release");
    }
    std::unique_ptr<nvinfer1::IRuntime> runtime(static_cast<nvinfer1::IRuntime*>(made));
    if (host_code) runtime->setEngineHostCodeAllowed(true);
    std::unique_ptr<nvinfer1::ICudaEngine> engine(
        runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine) return nullptr;
    std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
    if (!context) return nullptr;
    return std::make_unique<Deserialised>(std::move(runtime), std::move(engine),
                                          std::move(context));
  }

  std::string last_words() const override { return talk().last_words(); }

 private:
  template <typename Function>
  Function function_of(void* library, const char* name) const {
    void* found = ::dlsym(library, name);
    if (found == nullptr) {
      throw Error(Kind::environment, std::string(flavour_.title) + " has no " + name,
                  std::string("target ") + flavour_.target, "install one of its releases");
    }
    return reinterpret_cast<Function>(found);
  }

  const Flavour& flavour_;
  void* (*create_)(void* logger, int32_t version);
  nvinfer1::IPluginRegistry* (*registry_)();
  int32_t version_;
};

}  // namespace

const TensorRt& TensorRt::of(const Flavour& flavour) {
  if (std::string_view(flavour.target) != kTarget) {
    throw Error(Kind::environment,
                "this libmoe_export was built for " + std::string(flavour_of(kTarget)->title) + " " +
                    std::to_string(kMajor) + ", not for " + flavour.title,
                std::string("target ") + flavour.target,
                "build it with the headers of " + std::string(flavour.title));
  }
  static std::mutex mutex;
  static const Library* the_one = nullptr;  // stays: an error is asked again, a library is not
  const std::lock_guard<std::mutex> lock(mutex);
  if (the_one == nullptr) the_one = new Library(flavour);
  return *the_one;
}

}  // namespace moe::runtime
