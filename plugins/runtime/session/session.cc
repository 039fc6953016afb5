#include "session/session.h"

#include <cstring>

#include "core/words.h"
#include "session/kernels.h"

namespace moe::runtime {

namespace {

// Before it some of the standard operators of a MoE layer end the process where there are no tokens.
constexpr int kStandardLayers[] = {1, 32};
constexpr int kLogFatalOnly = 4;

Error too_old(const OrtFailure& failure, const std::string& path) {
  return Error(Kind::environment,
               "ONNX Runtime " + OnnxRuntime::here().version +
                   " cannot run the graph: " + failure.message,
               path, "install a newer ONNX Runtime");
}

// What ONNX Runtime says of a graph that it does not load.
Error load_error(const OrtFailure& failure, const std::string& path) {
  const auto says = [&](const char* word) {
    return failure.message.find(word) != std::string::npos;
  };
  if (failure.code == ort::ORT_NOT_IMPLEMENTED) return too_old(failure, path);
  // One code for a broken graph and for one that is newer than this ONNX Runtime.
  if (failure.code == ort::ORT_FAIL && (says("IR version") || says("opset"))) {
    return too_old(failure, path);
  }
  if (failure.code == ort::ORT_RUNTIME_EXCEPTION && failure.out_of_memory()) {
    return Error(Kind::memory, "the model does not fit into memory: " + failure.message, path);
  }
  return Error(Kind::unsafe, "ONNX Runtime refuses the graph: " + failure.message, path);
}

OrtOwned<ort::OrtSessionOptions> options_of(const OnnxRuntime& runtime, int threads) {
  ort::OrtSessionOptions* made = nullptr;
  check(runtime.api->CreateSessionOptions(&made));
  OrtOwned<ort::OrtSessionOptions> options(made);
  check(runtime.api->SetSessionLogSeverityLevel(made, kLogFatalOnly));
  check(runtime.api->SetDeterministicCompute(made, true));
  // Else what a run needs is kept as one more block for each shape, and shapes are many.
  check(runtime.api->DisableMemPattern(made));
  // Threads look for work until a run is over, not longer: then the cores are the next session's.
  check(runtime.api->AddSessionConfigEntry(made, "session.force_spinning_stop", "1"));
  check(runtime.api->SetInterOpNumThreads(made, 1));
  check(runtime.api->SetIntraOpNumThreads(made, threads));  // 0: one for each core
  return options;
}

std::string dtype_name(ort::ONNXTensorElementDataType type, const std::string& name) {
  if (type == ort::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING) return "str";
  const char* made = name_of(static_cast<DType>(type));
  if (*made == '?') {
    throw Error(Kind::unsupported, in_quotes(name) + " is a tensor of a type that nobody can pass");
  }
  return made;
}

TensorInfo info_of(const ort::OrtApi* api, const std::string& name, const ort::OrtTypeInfo* type) {
  const ort::OrtTensorTypeAndShapeInfo* facts = nullptr;
  check(api->CastTypeInfoToTensorInfo(type, &facts));
  if (facts == nullptr) throw Error(Kind::unsupported, in_quotes(name) + " is not a tensor");
  ort::ONNXTensorElementDataType element{};
  check(api->GetTensorElementType(facts, &element));
  TensorInfo made{name, dtype_name(element, name), {}};
  size_t rank = 0;
  check(api->GetDimensionsCount(facts, &rank));
  std::vector<int64_t> sizes(rank);
  std::vector<const char*> names(rank);
  check(api->GetDimensions(facts, sizes.data(), rank));
  check(api->GetSymbolicDimensions(facts, names.data(), rank));
  for (size_t axis = 0; axis < rank; ++axis) {
    if (sizes[axis] >= 0) {
      made.shape.push_back({sizes[axis], ""});
    } else {
      made.shape.push_back({std::nullopt, names[axis] != nullptr ? names[axis] : ""});
    }
  }
  return made;
}

using Count = ort::OrtStatus* (*)(const ort::OrtSession*, size_t*);
using Name = ort::OrtStatus* (*)(const ort::OrtSession*, size_t, ort::OrtAllocator*, char**);
using Type = ort::OrtStatus* (*)(const ort::OrtSession*, size_t, ort::OrtTypeInfo**);

std::vector<TensorInfo> infos_of(const OnnxRuntime& runtime, const ort::OrtSession* session,
                                 Count count_of, Name name_of_, Type type_of) {
  size_t count = 0;
  check(count_of(session, &count));
  std::vector<TensorInfo> made;
  for (size_t i = 0; i < count; ++i) {
    char* text = nullptr;
    check(name_of_(session, i, runtime.allocator, &text));
    const std::string name = text;
    check(runtime.api->AllocatorFree(runtime.allocator, text));
    if (!all_utf8(name)) throw Error(Kind::unsafe, "a name in the graph is not UTF-8");
    ort::OrtTypeInfo* type = nullptr;
    check(type_of(session, i, &type));
    const OrtOwned<ort::OrtTypeInfo> owned(type);
    made.push_back(info_of(runtime.api, name, type));
  }
  return made;
}

OrtOwned<ort::OrtSession> load(const OnnxRuntime& runtime, const Bundle& bundle,
                               const SessionOptions& wanted) {
  const std::string path = bundle.graph_path(wanted.component, wanted.graph);
  const Manifest& manifest = bundle.manifest();
  const auto options = options_of(runtime, wanted.threads);
  if (manifest.kernels) {
    const std::string kernels = kernels_for(*manifest.kernels, wanted.libraries.kernels, path);
    try {
      check(runtime.api->RegisterCustomOpsLibrary_V2(options.get(), kernels.c_str()));
    } catch (const OrtFailure& failure) {
      throw Error(Kind::environment,
                  "ONNX Runtime does not accept the native kernels: " + failure.message, kernels,
                  "install a newer ONNX Runtime, or export with --target standard");
    }
  } else if (!runtime.is_at_least(kStandardLayers[0], kStandardLayers[1])) {
    throw Error(Kind::environment,
                "a bundle for the target 'standard' needs ONNX Runtime 1.32, this is " +
                    runtime.version,
                path, "install ONNX Runtime 1.32 or newer, or export with --target ort");
  }
  ort::OrtSession* session = nullptr;
  try {
    check(runtime.api->CreateSession(runtime.env, path.c_str(), options.get(), &session));
  } catch (const OrtFailure& failure) {
    throw load_error(failure, path);
  }
  return OrtOwned<ort::OrtSession>(session);
}

OrtOwned<ort::OrtValue> value_of(const ort::OrtApi* api, const View& view) {
  // Nothing needs no memory, but ONNX Runtime wants an address.
  static char nothing[16];
  void* data = view.data != nullptr ? view.data : nothing;
  ort::OrtValue* value = nullptr;
  check(api->CreateTensorWithDataAsOrtValue(
      OnnxRuntime::here().cpu, data, view.bytes, view.shape.data(), view.shape.size(),
      static_cast<ort::ONNXTensorElementDataType>(view.dtype), &value));
  return OrtOwned<ort::OrtValue>(value);
}

Error run_error(const OrtFailure& failure, const std::vector<Named>& inputs) {
  if (failure.out_of_memory()) {
    return Error(Kind::memory, "the run does not fit into memory: " + failure.message);
  }
  std::string where = "inputs";
  for (const Named& each : inputs) {
    where += (where.size() > 6 ? ", " : " ") + printable(each.name) + " " + words_of(each.view.shape);
  }
  return Error(Kind::usage, "the model cannot run on these values: " + failure.message, where,
               "indices such as token ids must lie in the model's range");
}

const TensorInfo* find(const std::vector<TensorInfo>& infos, const std::string& name) {
  for (const TensorInfo& info : infos) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

}  // namespace

void Stop::now() {
  const std::lock_guard<std::mutex> lock(mutex_);
  asked_ = true;
  if (options_) check(OnnxRuntime::here().api->RunOptionsSetTerminate(options_.get()));
}

const ort::OrtRunOptions* Stop::options() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!options_) {
    const ort::OrtApi* api = OnnxRuntime::here().api;
    ort::OrtRunOptions* made = nullptr;
    check(api->CreateRunOptions(&made));
    options_.reset(made);
    if (asked_) check(api->RunOptionsSetTerminate(made));
  }
  return options_.get();
}

Session::Session(std::shared_ptr<const Bundle> bundle, const SessionOptions& options)
    : bundle_(std::move(bundle)), record_(&bundle_->component(options.component)) {
  if (options.threads < 0) {
    throw Error(Kind::usage, "threads must be 1 or more, or 0 for one for each core");
  }
  const OnnxRuntime& runtime = OnnxRuntime::loaded(options.libraries.onnxruntime);
  api_ = runtime.api;
  try {
    session_ = load(runtime, *bundle_, options);
    inputs_ = infos_of(runtime, session_.get(), api_->SessionGetInputCount,
                       api_->SessionGetInputName, api_->SessionGetInputTypeInfo);
    outputs_ = infos_of(runtime, session_.get(), api_->SessionGetOutputCount,
                        api_->SessionGetOutputName, api_->SessionGetOutputTypeInfo);
  } catch (const OrtFailure& failure) {
    throw Error(Kind::unsafe, "ONNX Runtime cannot describe the graph: " + failure.message,
                bundle_->path());
  }
}

std::vector<OrtOwned<ort::OrtValue>> Session::run_values(
    const std::vector<Named>& inputs, const std::vector<const char*>& names,
    std::vector<OrtOwned<ort::OrtValue>> outputs, const Stop* stop) const {
  std::vector<OrtOwned<ort::OrtValue>> owned;
  std::vector<const char*> given_names;
  std::vector<const ort::OrtValue*> given;
  for (const Named& each : inputs) {
    owned.push_back(value_of(api_, each.view));
    given_names.push_back(each.name.c_str());
    given.push_back(owned.back().get());
  }
  std::vector<ort::OrtValue*> made;
  for (const auto& output : outputs) made.push_back(output.get());
  ort::OrtStatus* status = api_->Run(
      session_.get(), stop != nullptr ? stop->options() : nullptr, given_names.data(), given.data(),
      given.size(), names.data(), names.size(), made.data());
  // What was given stays its owner's; what was made is ours.
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i] == nullptr) outputs[i].reset(made[i]);
  }
  try {
    check(status);
  } catch (const OrtFailure& failure) {
    if (stop != nullptr && stop->asked()) throw Stopped{};
    throw run_error(failure, inputs);
  }
  return outputs;
}

std::vector<Tensor> Session::run(const std::vector<Named>& inputs,
                                 const std::vector<std::string>& outputs, const Stop* stop) const {
  check_outputs(outputs, outputs_);
  check_inputs(inputs, inputs_);
  std::vector<const char*> names;
  for (const std::string& name : outputs) names.push_back(name.c_str());
  if (outputs.empty()) {
    for (const TensorInfo& info : outputs_) names.push_back(info.name.c_str());
  }
  std::vector<Tensor> made;
  std::vector<OrtOwned<ort::OrtValue>> places(names.size());
  for (auto& value : run_values(inputs, names, std::move(places), stop)) {
    made.emplace_back(std::move(value));
  }
  return made;
}

void Session::check_known(const Named& given, const std::vector<TensorInfo>& infos) const {
  const TensorInfo* info = find(infos, given.name);
  if (info == nullptr) throw Error(Kind::usage, "the graph has no " + in_quotes(given.name));
  if (name_of(given.view.dtype) != info->dtype || given.view.shape.size() != info->shape.size()) {
    throw Error(Kind::usage, std::string("got ") + name_of(given.view.dtype) + " " +
                                 words_of(given.view.shape) + ", expected " + info->words());
  }
}

void Session::run_into(const std::vector<Named>& inputs, const std::vector<Named>& outputs,
                       const Stop* stop) const {
  std::vector<const char*> names;
  std::vector<OrtOwned<ort::OrtValue>> places;
  for (const Named& each : inputs) check_known(each, inputs_);
  for (const Named& each : outputs) {
    check_known(each, outputs_);
    names.push_back(each.name.c_str());
    places.push_back(value_of(api_, each.view));
  }
  run_values(inputs, names, std::move(places), stop);
}

}  // namespace moe::runtime
