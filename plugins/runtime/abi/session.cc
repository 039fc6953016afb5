#include "abi/handles.h"
#include "session/engine.h"

using namespace moe::runtime;
using namespace moe::runtime::abi;

struct moe_export_tensor {
  Tensor tensor;
};

namespace {

// A port with everything that its pointers point to.
struct Port {
  explicit Port(const TensorInfo& of) : info(of) {
    for (const Dimension& dim : info.shape) {
      sizes.push_back(dim.size.value_or(-1));
      names.push_back(dim.name.c_str());
    }
    port = {info.name.c_str(), info.dtype.c_str(), sizes.size(), sizes.data(), names.data()};
  }
  Port(const Port&) = delete;
  TensorInfo info;
  std::vector<int64_t> sizes;
  std::vector<const char*> names;
  moe_export_port port;
};

using Ports = std::vector<std::unique_ptr<Port>>;

Ports ports_of(const std::vector<TensorInfo>& infos) {
  Ports made;
  for (const TensorInfo& info : infos) made.push_back(std::make_unique<Port>(info));
  return made;
}

const moe_export_port* port_at(const Ports& ports, size_t index) {
  return index < ports.size() ? &ports[index]->port : nullptr;
}

Named named(const moe_export_array& array) {
  require(array.name, "an array's name");
  if (array.rank > 0) require(array.shape, "an array's shape");
  if (array.bytes > 0) require(array.data, "an array's data");
  std::vector<int64_t> shape(array.shape, array.shape + array.rank);
  // Inputs are read alone.
  return {array.name,
          {static_cast<DType>(array.dtype), std::move(shape), const_cast<void*>(array.data),
           array.bytes}};
}

}  // namespace

// A graph on ONNX Runtime, or the engine that is in its place.
struct moe_export_session {
  std::optional<Session> graph;
  std::optional<EngineSession> engine;
  Ports inputs, outputs;

  std::vector<Tensor> run(const std::vector<Named>& given,
                          const std::vector<std::string>& wanted) const {
    return engine ? engine->run(given, wanted) : graph->run(given, wanted);
  }
};

moe_export_error* moe_export_session_create(const moe_export_bundle* bundle,
                                            const moe_export_session_options* options,
                                            moe_export_session** session) {
  return guarded([&] {
    require(bundle, "bundle");
    require(session, "session");
    const auto asked = known(options, "moe_export_session_options");
    SessionOptions wanted;
    wanted.component = text_or(asked.component, "model");
    wanted.graph = text_or(asked.graph, "main");
    wanted.threads = asked.threads;
    wanted.libraries = {text_or(asked.onnxruntime, ""), text_or(asked.kernels, "")};
    auto made = std::make_unique<moe_export_session>();
    if (wanted.graph == "main" && flavour_of(bundle->bundle->manifest().target) != nullptr) {
      made->engine.emplace(bundle->bundle, wanted.component);
    } else {
      made->graph.emplace(bundle->bundle, wanted);
    }
    made->inputs = ports_of(made->engine ? made->engine->inputs() : made->graph->inputs());
    made->outputs = ports_of(made->engine ? made->engine->outputs() : made->graph->outputs());
    *session = made.release();
  });
}

void moe_export_session_free(moe_export_session* session) { delete session; }

size_t moe_export_session_input_count(const moe_export_session* session) {
  return session->inputs.size();
}
size_t moe_export_session_output_count(const moe_export_session* session) {
  return session->outputs.size();
}
const moe_export_port* moe_export_session_input(const moe_export_session* session, size_t index) {
  return port_at(session->inputs, index);
}
const moe_export_port* moe_export_session_output(const moe_export_session* session, size_t index) {
  return port_at(session->outputs, index);
}

moe_export_error* moe_export_session_run(const moe_export_session* session,
                                         const moe_export_array* inputs, size_t input_count,
                                         const char* const* outputs, size_t output_count,
                                         moe_export_tensor** tensors) {
  return guarded([&] {
    require(session, "session");
    require(tensors, "tensors");
    if (input_count > 0) require(inputs, "inputs");
    if (output_count > 0) require(outputs, "outputs");
    std::vector<Named> given;
    std::vector<std::string> wanted;
    for (size_t i = 0; i < input_count; ++i) given.push_back(named(inputs[i]));
    for (size_t i = 0; i < output_count; ++i) {
      require(outputs[i], "an output's name");
      wanted.emplace_back(outputs[i]);
    }
    std::vector<std::unique_ptr<moe_export_tensor>> made;
    for (Tensor& tensor : session->run(given, wanted)) {
      made.push_back(std::make_unique<moe_export_tensor>(moe_export_tensor{std::move(tensor)}));
    }
    for (auto& tensor : made) *tensors++ = tensor.release();
  });
}

moe_export_dtype moe_export_tensor_dtype(const moe_export_tensor* tensor) {
  return static_cast<moe_export_dtype>(tensor->tensor.dtype());
}
size_t moe_export_tensor_rank(const moe_export_tensor* tensor) {
  return tensor->tensor.shape().size();
}
const int64_t* moe_export_tensor_shape(const moe_export_tensor* tensor) {
  return tensor->tensor.shape().data();
}
const void* moe_export_tensor_data(const moe_export_tensor* tensor) {
  return tensor->tensor.data();
}
size_t moe_export_tensor_bytes(const moe_export_tensor* tensor) { return tensor->tensor.bytes(); }
void moe_export_tensor_free(moe_export_tensor* tensor) { delete tensor; }
