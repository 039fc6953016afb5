// What the library costs over ONNX Runtime itself: one graph, run in turn by the C++ interface and by calls
// of ONNX Runtime's own, on the same inputs and with one thread each.
//
// usage: moe_embed_overhead BUNDLE COMPONENT SIZE=N ... [--rounds 400]
//
// A SIZE is the name of an axis; inputs are zeros, masks are ones.  Prints a line of JSON: microseconds of
// CPU time of a run, the medians of both and of their ratio round by round.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>

#include "bundle/bundle.h"
#include "core/array.h"
#include "moe_export/moe_export.hpp"
#include "session/kernels.h"
#include "session/library.h"

namespace {

using namespace moe::runtime;

struct Given {
  std::string name;
  Array array;
};

int64_t size_of_axis(const moe::Port& port, size_t axis, const std::map<std::string, int64_t>& known) {
  if (port.sizes[axis] >= 0) return port.sizes[axis];
  const auto found = known.find(port.size_names[axis]);
  if (found == known.end()) {
    throw moe::Error(moe::Kind::usage, "no size for the axis " + port.size_names[axis]);
  }
  return found->second;
}

std::vector<Given> inputs_of(const moe::Session& session, const std::map<std::string, int64_t>& known) {
  std::vector<Given> made;
  for (const moe::Port& port : session.inputs()) {
    std::vector<int64_t> shape;
    for (size_t axis = 0; axis < port.sizes.size(); ++axis) {
      shape.push_back(size_of_axis(port, axis, known));
    }
    Array array = Array::of(*dtype_named(port.dtype), shape);
    if (port.name == "attention_mask") {
      std::fill_n(array.as<int64_t>(), elements_of(array.shape), 1);
    }
    made.push_back({port.name, std::move(array)});
  }
  return made;
}

// The graph by ONNX Runtime's functions alone, with everything made beforehand that can be.
class Bare {
 public:
  Bare(const moe::Bundle& bundle, const std::string& component, std::vector<Given>* given)
      : api_(OnnxRuntime::here().api) {
    const std::shared_ptr<const Bundle> opened =
        std::make_shared<const Bundle>(Bundle::open(bundle.path(), false));
    ort::OrtSessionOptions* options = nullptr;
    check(api_->CreateSessionOptions(&options));
    const OrtOwned<ort::OrtSessionOptions> owned(options);
    check(api_->SetIntraOpNumThreads(options, 1));
    check(api_->SetInterOpNumThreads(options, 1));
    check(api_->SetDeterministicCompute(options, true));
    if (opened->manifest().kernels) {
      const std::string path = kernels_for(*opened->manifest().kernels, "", "");
      check(api_->RegisterCustomOpsLibrary_V2(options, path.c_str()));
    }
    ort::OrtSession* session = nullptr;
    const std::string path = opened->graph_path(component, "main");
    check(api_->CreateSession(OnnxRuntime::here().env, path.c_str(), options, &session));
    session_.reset(session);
    for (Given& each : *given) {
      static char nothing[16];
      void* data = each.array.data.empty() ? nothing : static_cast<void*>(each.array.data.data());
      ort::OrtValue* value = nullptr;
      check(api_->CreateTensorWithDataAsOrtValue(
          OnnxRuntime::here().cpu, data, each.array.data.size(), each.array.shape.data(),
          each.array.shape.size(), static_cast<ort::ONNXTensorElementDataType>(each.array.dtype),
          &value));
      values_.emplace_back(value);
      given_.push_back(value);
      names_.push_back(each.name.c_str());
    }
    for (const TensorInfo& info : opened->component(component).outputs) outputs_.push_back(info.name);
    for (const std::string& name : outputs_) output_names_.push_back(name.c_str());
  }

  void run() {
    std::vector<ort::OrtValue*> made(output_names_.size(), nullptr);
    check(api_->Run(session_.get(), nullptr, names_.data(), given_.data(), given_.size(),
                    output_names_.data(), output_names_.size(), made.data()));
    for (ort::OrtValue* value : made) api_->ReleaseValue(value);
  }

 private:
  const ort::OrtApi* api_;
  OrtOwned<ort::OrtSession> session_;
  std::vector<OrtOwned<ort::OrtValue>> values_;
  std::vector<const ort::OrtValue*> given_;
  std::vector<std::string> outputs_;
  std::vector<const char*> names_, output_names_;
};

double cpu_microseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

template <typename Run>
double timed(Run&& run) {
  const double begun = cpu_microseconds();
  run();
  return cpu_microseconds() - begun;
}

double median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  return numbers[numbers.size() / 2];
}

int measure(const std::string& path, const std::string& component,
            const std::map<std::string, int64_t>& sizes, int rounds) {
  const moe::Bundle bundle = moe::Bundle::open(path, false);
  moe::Runtime runtime;
  runtime.threads = 1;
  const moe::Session session(bundle, component, runtime);
  // The library that this program is linked with and the one behind its interface are two: both load
  // ONNX Runtime, which is one.
  OnnxRuntime::loaded("");
  std::vector<Given> given = inputs_of(session, sizes);
  Bare bare(bundle, component, &given);
  std::map<std::string, moe::Input> inputs;
  for (const Given& each : given) {
    inputs[each.name] = {static_cast<moe_export_dtype>(each.array.dtype), each.array.shape,
                         each.array.data.data(), each.array.data.size()};
  }
  std::vector<double> ours, theirs, ratios;
  for (int i = -20; i < rounds; ++i) {
    double a = 0, b = 0;
    // In turn, each first as often as the other.
    if (i % 2 == 0) b = timed([&] { bare.run(); });
    a = timed([&] { session.run(inputs); });
    if (i % 2 != 0) b = timed([&] { bare.run(); });
    if (i < 0) continue;  // what warms up
    ours.push_back(a), theirs.push_back(b), ratios.push_back(a / b);
  }
  std::printf("{\"library_us\": %.2f, \"onnxruntime_us\": %.2f, \"ratio\": %.4f, \"rounds\": %d}\n",
              median(ours), median(theirs), median(ratios), rounds);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, int64_t> sizes;
  int rounds = 400;
  for (int i = 3; i < argc; ++i) {
    const char* is = std::strchr(argv[i], '=');
    if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
      rounds = std::atoi(argv[++i]);
    } else if (is != nullptr) {
      sizes[std::string(argv[i], static_cast<size_t>(is - argv[i]))] = std::atoll(is + 1);
    }
  }
  if (argc < 3 || rounds < 1) {
    std::fprintf(stderr, "usage: moe_embed_overhead BUNDLE COMPONENT SIZE=N ... [--rounds 400]\n");
    return 2;
  }
  try {
    return measure(argv[1], argv[2], sizes, rounds);
  } catch (const moe::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s (%s)\n", error.what(), error.where.c_str());
    return static_cast<int>(error.kind);
  } catch (const OrtFailure& failure) {
    std::fprintf(stderr, "error: %s\n", failure.message.c_str());
    return 1;
  }
}
