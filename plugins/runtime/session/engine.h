// One component of a bundle as an engine on the GPU that it was built for: arrays in, arrays out; the
// twin of moe_export/runtime/engine.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_ENGINE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_ENGINE_H_

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "session/device.h"
#include "session/session.h"
#include "session/tensorrt.h"

namespace moe::runtime {

// Runs of several threads take turns: an engine has one context here.  Inputs are copied to the GPU and
// outputs back.
class EngineSession {
 public:
  // Raises Error(usage) for a component that is not there, Error(environment) where there is no GPU,
  // TensorRT or plugin library of the kind that the engine was built with, Error(unsafe) for another
  // plugin library, or for one inside the engine unless MOE_EXPORT_TRUST_ENGINES is 1.
  EngineSession(std::shared_ptr<const Bundle> bundle, const std::string& component);

  const std::vector<TensorInfo>& inputs() const { return part_->inputs; }
  const std::vector<TensorInfo>& outputs() const { return part_->outputs; }

  // The named outputs, all where none is named.  Raises Error(usage) as Session::run does, and for sizes
  // that none of the engine's profiles has room for.
  std::vector<Tensor> run(const std::vector<Named>& inputs,
                          const std::vector<std::string>& outputs) const;

 private:
  void check_ports() const;
  void take_profile(const std::vector<Named>& inputs) const;
  void done(bool did, const std::string& what) const;
  std::vector<int64_t> shape_of(const TensorInfo& info) const;

  std::shared_ptr<const Bundle> bundle_;
  const ComponentRecord* part_;
  const TensorRt* tensorrt_;
  const EngineRecord* record_;
  Device device_;
  std::unique_ptr<Plan> plan_;
  mutable std::mutex mutex_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_ENGINE_H_
