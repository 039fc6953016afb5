// TensorRT's runtime, as far as an engine is run through it: a session of this project computes in its
// place.
//
// Addresses are the mock driver's, which are the host's.  STAND_IN_BUNDLE names the bundle whose graph an
// engine stands for, and with STAND_IN_SPOILS set every float is a little off; with STAND_IN_FAILS it does
// not start, as TensorRT 10.15 does not without a GPU.  A plan begins with "vtrt";
// one that goes on with "+library" asks for host code, and one with "+half" has halves for outputs.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moe_export/moe_export.hpp"

#define NVINFER_API extern "C" __attribute__((visibility("default")))

namespace {

using namespace nvinfer1;

// Functions of a class that a caller finds through its table: those that are set, while any other ends the
// process.  TensorRT's inner classes have fifty each, other ones in each release.
template <typename Class, typename Object>
class Table {
 public:
  Table() { functions_.fill(reinterpret_cast<void*>(&std::abort)); }
  template <typename Result, typename... Given>
  Table& set(Result (Class::*function)(Given...) noexcept, Result (*body)(Object*, Given...)) {
    return put(function, reinterpret_cast<void*>(body));
  }
  template <typename Result, typename... Given>
  Table& set(Result (Class::*function)(Given...) const noexcept, Result (*body)(Object*, Given...)) {
    return put(function, reinterpret_cast<void*>(body));
  }
  void* const* functions() const { return functions_.data(); }

 private:
  // A pointer to a virtual function begins with where it lies in the table: plus one, on some machines.
  template <typename Function>
  Table& put(Function function, void* body) {
    size_t place = 0;
    std::memcpy(&place, &function, sizeof place);
    functions_.at(place / sizeof(void*)) = body;
    return *this;
  }
  std::array<void*, 128> functions_;
};

Dims dims_of(const std::vector<int64_t>& shape) {
  Dims made{};
  made.nbDims = static_cast<int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), made.d);
  return made;
}

DataType type_of(const std::string& dtype) {
  static const std::map<std::string, DataType> kTypes = {{"float32", DataType::kFLOAT},
                                                         {"int64", DataType::kINT64},
                                                         {"bool", DataType::kBOOL}};
  return kTypes.at(dtype);
}

using Inputs = std::map<std::string, moe::Input>;

struct Context {
  void* const* functions;
  moe::Session* session;
  bool spoils = std::getenv("STAND_IN_SPOILS") != nullptr, has_profile = false;
  std::map<std::string, std::vector<int64_t>> shapes{};
  std::map<std::string, void*> addresses{};

  // Of these sizes, and zeros where nothing has an address.
  Inputs inputs(std::vector<std::vector<char>>* zeros) const {
    Inputs made;
    for (const moe::Port& port : session->inputs()) {
      const bool wide = port.dtype == "int64";
      size_t bytes = wide ? 8 : port.dtype == "bool" ? 1 : 4;
      for (const int64_t size : shapes.at(port.name)) bytes *= static_cast<size_t>(size);
      const void* data = nullptr;
      if (zeros != nullptr) {
        zeros->emplace_back(bytes);
        data = zeros->back().data();
      } else {
        data = addresses.at(port.name);
      }
      const auto dtype = wide                      ? MOE_EXPORT_INT64
                         : port.dtype == "bool" ? MOE_EXPORT_BOOL
                                                : MOE_EXPORT_FLOAT32;
      made[port.name] = {dtype, shapes.at(port.name), data, bytes};
    }
    return made;
  }
};

bool take_profile(Context* context, int32_t, cudaStream_t stream) {
  return context->has_profile = stream != nullptr;
}

bool set_input_shape(Context* context, const char* name, const Dims& dims) {
  context->shapes[name] = {dims.d, dims.d + dims.nbDims};
  return true;
}

Dims tensor_shape(Context* context, const char* name) {
  std::vector<std::vector<char>> zeros;
  return dims_of(context->session->run(context->inputs(&zeros), {name}).at(name).shape());
}

bool set_address(Context* context, const char* name, void* address) {
  context->addresses[name] = address;
  return true;
}

bool enqueue(Context* context, cudaStream_t stream) {
  if (!context->has_profile || stream == nullptr) return false;
  for (const auto& [name, tensor] : context->session->run(context->inputs(nullptr))) {
    std::memcpy(context->addresses.at(name), tensor.data(), tensor.bytes());
    if (!context->spoils || tensor.dtype() != MOE_EXPORT_FLOAT32) continue;
    auto* numbers = static_cast<float*>(context->addresses.at(name));
    for (size_t i = 0; i < tensor.bytes() / sizeof *numbers; ++i) numbers[i] += 1e-2f;
  }
  return true;
}

struct OuterContext final : IExecutionContext {
  explicit OuterContext(moe::Session* session) : inner{table().functions(), session} {
    mImpl = reinterpret_cast<apiv::VExecutionContext*>(&inner);
  }
  static const Table<apiv::VExecutionContext, Context>& table() {
    using V = apiv::VExecutionContext;
    static const auto made = Table<V, Context>()
                                 .set(&V::setOptimizationProfileAsync, take_profile)
                                 .set(&V::setInputShape, set_input_shape)
                                 .set(&V::getTensorShape, tensor_shape)
                                 .set(&V::setTensorAddress, set_address)
                                 .set(&V::enqueueV3, enqueue);
    return made;
  }
  Context inner;
};

struct Engine {
  void* const* functions;
  bool halves;
  std::unique_ptr<moe::Session> session;
};

DataType data_type(Engine* engine, const char* name) {
  for (const moe::Port& port : engine->session->inputs()) {
    if (port.name == name) return type_of(port.dtype);
  }
  for (const moe::Port& port : engine->session->outputs()) {
    if (port.name == name) return engine->halves ? DataType::kHALF : type_of(port.dtype);
  }
  return DataType::kFLOAT;
}

IExecutionContext* make_context(Engine* engine, ExecutionContextAllocationStrategy) {
  return new OuterContext(engine->session.get());
}

struct OuterEngine final : ICudaEngine {
  explicit OuterEngine(bool halves) : inner{table().functions(), halves, nullptr} {
    moe::Runtime one_thread;
    one_thread.threads = 1;
    inner.session = std::make_unique<moe::Session>(
        moe::Bundle::open(std::getenv("STAND_IN_BUNDLE")), "model", one_thread);
    mImpl = reinterpret_cast<apiv::VCudaEngine*>(&inner);
  }
  static const Table<apiv::VCudaEngine, Engine>& table() {
    using V = apiv::VCudaEngine;
    static const auto made = Table<V, Engine>()
                                 .set(&V::getTensorDataType, data_type)
                                 .set(&V::createExecutionContext, make_context);
    return made;
  }
  Engine inner;
};

struct Runtime {
  void* const* functions;
  ILogger* logger;
  bool host_code = false;
};

void allow_host_code(Runtime* runtime, bool allowed) { runtime->host_code = allowed; }

ICudaEngine* deserialise(Runtime* runtime, const void* blob, std::size_t size) {
  const std::string plan(static_cast<const char*>(blob), size);
  const auto says = [&](const char* word) { return plan.find(word) != std::string::npos; };
  if (plan.rfind("vtrt", 0) != 0) {
    runtime->logger->log(ILogger::Severity::kERROR, "this is no plan\nand never was");
    return nullptr;
  }
  if (says("+library") && !runtime->host_code) std::abort();
  return new OuterEngine(says("+half"));
}

struct OuterRuntime final : IRuntime {
  explicit OuterRuntime(ILogger* logger) : inner{table().functions(), logger} {
    mImpl = reinterpret_cast<apiv::VRuntime*>(&inner);
  }
  static const Table<apiv::VRuntime, Runtime>& table() {
    using V = apiv::VRuntime;
    static const auto made = Table<V, Runtime>()
                                 .set(&V::setEngineHostCodeAllowed, allow_host_code)
                                 .set(&V::deserializeCudaEngine, deserialise);
    return made;
  }
  Runtime inner;
};

struct Registry {
  void* const* functions;
};

void* load_library(Registry*, const char* path) { return ::dlopen(path, RTLD_NOW | RTLD_LOCAL); }

}  // namespace

NVINFER_API int32_t getInferLibVersion() noexcept {
  // STAND_IN_RELEASE: of another TensorRT than the headers'.
  const char* release = std::getenv("STAND_IN_RELEASE");
  return release != nullptr ? std::atoi(release) : NV_TENSORRT_VERSION;
}

NVINFER_API void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
  if (version != NV_TENSORRT_VERSION) return nullptr;
  if (std::getenv("STAND_IN_FAILS") != nullptr) {
    static_cast<ILogger*>(logger)->log(ILogger::Severity::kERROR, "CUDA initialization failure");
    return reinterpret_cast<void*>(0x238);
  }
  return static_cast<IRuntime*>(new OuterRuntime(static_cast<ILogger*>(logger)));
}

NVINFER_API IPluginRegistry* getPluginRegistry() noexcept {
  static const auto table =
      Table<IPluginRegistry, Registry>().set(&IPluginRegistry::loadLibrary, load_library);
  static Registry registry{table.functions()};
  return reinterpret_cast<IPluginRegistry*>(&registry);
}
