// One graph of a bundle on ONNX Runtime: arrays by name in, arrays by name out; the twin of
// moe_export/runtime/session.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_SESSION_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_SESSION_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle/bundle.h"
#include "session/tensor.h"

namespace moe::runtime {

struct Libraries {
  std::string onnxruntime, kernels;  // empty: as library.h and kernels.h say
};

struct SessionOptions {
  std::string component = "model", graph = "main";
  int threads = 0;  // 0: one for each core
  Libraries libraries;
};

struct Named {
  std::string name;
  View view;
};

// Ends a run under way, from another thread.
class Stop {
 public:
  void now();
  bool asked() const { return asked_; }
  // What a run is given that it ends.
  const ort::OrtRunOptions* options() const;

 private:
  mutable std::mutex mutex_;
  mutable OrtOwned<ort::OrtRunOptions> options_;  // made by the first run
  std::atomic<bool> asked_{false};
};

// A run that was ended by its Stop.
struct Stopped {};

// Runs may overlap.  What goes in and out is not copied.
class Session {
 public:
  // Raises Error(usage) for a component or graph that is not there, Error(environment) where kernels
  // or ONNX Runtime are not here or others, Error(unsafe) for a graph that ONNX Runtime refuses.
  Session(std::shared_ptr<const Bundle> bundle, const SessionOptions& options);

  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }
  const ComponentRecord& record() const { return *record_; }
  const Bundle& bundle() const { return *bundle_; }

  // The named outputs, all where none is named.  Raises Error(usage) where a name, dtype or shape is
  // not the graph's, or two inputs give one symbolic dimension two sizes.
  std::vector<Tensor> run(const std::vector<Named>& inputs, const std::vector<std::string>& outputs,
                          const Stop* stop = nullptr) const;

  // Writes each output where its view lies; an output may lie where an input does if the record's
  // in_place says so.  Checks dtypes and the number of axes; a wrong shape shows when it runs.
  void run_into(const std::vector<Named>& inputs, const std::vector<Named>& outputs,
                const Stop* stop = nullptr) const;

 private:
  void check_known(const Named& given, const std::vector<TensorInfo>& infos) const;
  std::vector<OrtOwned<ort::OrtValue>> run_values(const std::vector<Named>& inputs,
                                                  const std::vector<const char*>& names,
                                                  std::vector<OrtOwned<ort::OrtValue>> outputs,
                                                  const Stop* stop) const;

  std::shared_ptr<const Bundle> bundle_;
  const ComponentRecord* record_;
  const ort::OrtApi* api_;
  OrtOwned<ort::OrtSession> session_;
  std::vector<TensorInfo> inputs_, outputs_;
};

// Refuses inputs whose names, dtypes or shapes are not as expected, with Error(usage).
void check_inputs(const std::vector<Named>& given, const std::vector<TensorInfo>& expected);
// Refuses a name that no output has, with Error(usage).
void check_outputs(const std::vector<std::string>& wanted, const std::vector<TensorInfo>& known);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_SESSION_H_
