#include "custom_op.h"

#include <new>

namespace moe_ort {

namespace {

using ort_abi::OrtCustomOp;
using ort_abi::OrtKernelContext;
using ort_abi::OrtKernelInfo;

// What ONNX Runtime holds for a node.
struct LiveKernel {
  const OrtApi* api;
  std::string label;
  std::unique_ptr<Kernel> kernel;
};

OrtStatus* failed(const OrtApi* api, ort_abi::OrtErrorCode code, const std::string& label,
                  const std::string& what) {
  const bool named = what.compare(0, label.size(), label) == 0;
  return api->CreateStatus(code, (named ? what : label + ": " + what).c_str());
}

// Nothing may be thrown into ONNX Runtime, which is another compiler's C++.
template <typename Act>
OrtStatus* guarded(const OrtApi* api, const std::string& label, Act act) noexcept {
  try {
    act();
    return nullptr;
  } catch (const Fault& fault) {
    return failed(api, ort_abi::ORT_INVALID_ARGUMENT, label, fault.what());
  } catch (const std::bad_alloc&) {
    return failed(api, ort_abi::ORT_RUNTIME_EXCEPTION, label, "bad allocation: out of memory");
  } catch (const std::exception& error) {
    return failed(api, ort_abi::ORT_FAIL, label, error.what());
  }
}

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

OrtStatus* create(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                  void** kernel) {
  const OpDefinition& definition = *self(op).definition;
  return guarded(api, std::string("moe_export.") + definition.name, [&] {
    const Node node(api, info, definition.name);
    *kernel = new LiveKernel{api, node.label(), definition.make(node)};
  });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  const auto& live = *static_cast<const LiveKernel*>(kernel);
  return guarded(live.api, live.label, [&] {
    Call call(live.api, context);
    live.kernel->compute(call);
    call.finish();
  });
}

void destroy(void* kernel) { delete static_cast<LiveKernel*>(kernel); }

ONNXTensorElementDataType type_of(const CustomOp& op, const Port& port) {
  switch (port.type) {
    case PortType::row: return op.row;
    case PortType::int32: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case PortType::boolean: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    // Any: the kernel compares it with the attributes, and has better words for what it finds.
    case PortType::weight: return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    case PortType::f32: break;
  }
  return ort_abi::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

ort_abi::OrtCustomOpInputOutputCharacteristic characteristic(const Port& port) {
  return port.optional ? ort_abi::INPUT_OUTPUT_OPTIONAL : ort_abi::INPUT_OUTPUT_REQUIRED;
}

constexpr int kOpVersion = 1;

}  // namespace

CustomOp::CustomOp(const OpDefinition& its_definition, const char* its_provider,
                   ONNXTensorElementDataType its_row)
    : OrtCustomOp{}, definition(&its_definition), provider(its_provider), row(its_row) {
  version = ort_abi::kApiVersion;
  GetName = [](const OrtCustomOp* op) { return self(op).definition->name; };
  GetExecutionProviderType = [](const OrtCustomOp* op) { return self(op).provider; };
  GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).definition->inputs.size(); };
  GetInputType = [](const OrtCustomOp* op, size_t i) {
    return type_of(self(op), self(op).definition->inputs[i]);
  };
  GetInputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return characteristic(self(op).definition->inputs[i]);
  };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return ort_abi::OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).definition->outputs.size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t i) {
    return type_of(self(op), self(op).definition->outputs[i]);
  };
  GetOutputCharacteristic = [](const OrtCustomOp* op, size_t i) {
    return characteristic(self(op).definition->outputs[i]);
  };
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  CreateKernelV2 = create;
  KernelComputeV2 = compute;
  KernelDestroy = destroy;
  GetStartVersion = [](const OrtCustomOp*) { return kOpVersion; };
  GetEndVersion = [](const OrtCustomOp*) { return kOpVersion; };
}

}  // namespace moe_ort
