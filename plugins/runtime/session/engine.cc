#include "session/engine.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <tuple>

#include "bundle/verify.h"
#include "core/words.h"
#include "session/trt_plugins.h"

namespace moe::runtime {

namespace {

constexpr const char* kTrust = "MOE_EXPORT_TRUST_ENGINES";

const TensorRt& tensorrt_of(const Bundle& bundle) {
  const std::string& target = bundle.manifest().target;
  const Flavour* flavour = flavour_of(target);
  if (flavour == nullptr) {
    throw Error(Kind::usage, "a bundle for " + in_quotes(target) + " has no engines");
  }
  return TensorRt::of(*flavour);
}

std::string build_hint(const Bundle& bundle) { return "moe-export build " + bundle.path(); }

// The engine of a component for the GPU that is here.
const EngineRecord& engine_for(const Bundle& bundle, const std::string& component) {
  const int64_t sm = sm_here();
  std::vector<std::string> built;
  for (const EngineRecord& each : bundle.manifest().engines) {
    if (each.component != component) continue;
    if (each.sm == sm) return each;
    built.push_back(std::to_string(each.sm));
  }
  throw Error(Kind::environment,
              "the GPU here is of SM " + std::to_string(sm) + ", the engines of " +
                  in_quotes(component) + " are for " + (built.empty() ? "no SM" : listed(built)),
              bundle.path(), build_hint(bundle));
}

// Refuses to load a library out of a plan unless the environment says so.
void require_trust(const EngineRecord& record) {
  const char* said = std::getenv(kTrust);
  if (said != nullptr && std::string(said) == "1") return;
  throw Error(Kind::unsafe, "the engine holds a native library, which would run in this process",
              record.plan,
              std::string("set ") + kTrust +
                  "=1 for a bundle whose maker you trust, or build it without --embed-plugins");
}

std::unique_ptr<Plan> plan_of(const Bundle& bundle, const EngineRecord& record,
                              const TensorRt& tensorrt) {
  if (record.embeds_plugins) {
    require_trust(record);
  } else if (record.plugins_sha256) {
    const std::string library = plugin_library(*record.plugins_sha256);
    if (!tensorrt.load_plugins(library)) {
      throw Error(Kind::environment,
                  "TensorRT does not take the plugins: " + tensorrt.last_words(), library,
                  "install moe_export again");
    }
  }
  const std::string content =
      read_checked(bundle.path() + "/" + record.plan, bundle.manifest().files.at(record.plan));
  std::unique_ptr<Plan> plan = tensorrt.deserialised(content, record.embeds_plugins);
  if (plan == nullptr) {
    throw Error(Kind::environment,
                std::string(flavour_of(bundle.manifest().target)->title) + " " + tensorrt.version() +
                    " does not load the engine, which " + printable(record.tensorrt) +
                    " built: " + tensorrt.last_words(),
                record.plan, build_hint(bundle));
  }
  return plan;
}

const View& view_of(const std::vector<Named>& given, const std::string& name) {
  return std::find_if(given.begin(), given.end(), [&](const Named& each) {
           return each.name == name;
         })->view;
}

bool fits(const std::map<std::string, Profile>& profile, const std::vector<Named>& given) {
  return std::all_of(given.begin(), given.end(), [&](const Named& each) {
    const auto found = profile.find(each.name);
    if (found == profile.end()) return true;  // of fixed sizes
    const std::vector<int64_t>&least = found->second.least, &most = found->second.most;
    if (least.size() != each.view.shape.size()) return false;
    for (size_t axis = 0; axis < least.size(); ++axis) {
      const int64_t size = each.view.shape[axis];
      if (size < least[axis] || size > most[axis]) return false;
    }
    return true;
  });
}

std::vector<std::string> names_of(const std::vector<TensorInfo>& infos) {
  std::vector<std::string> made;
  for (const TensorInfo& info : infos) made.push_back(info.name);
  return made;
}

// What an output will be.
struct Place {
  DType dtype;
  std::vector<int64_t> shape;
};

}  // namespace

EngineSession::EngineSession(std::shared_ptr<const Bundle> bundle, const std::string& component)
    : bundle_(std::move(bundle)),
      part_(&bundle_->component(component)),
      tensorrt_(&tensorrt_of(*bundle_)),
      record_(&engine_for(*bundle_, component)),
      plan_(plan_of(*bundle_, *record_, *tensorrt_)) {
  check_ports();
}

// Buffers are made by the manifest's dtypes, and the engine writes by its own.
void EngineSession::check_ports() const {
  for (const auto* infos : {&part_->inputs, &part_->outputs}) {
    for (const TensorInfo& info : *infos) {
      const std::optional<DType> dtype = plan_->dtype_of(info.name.c_str());
      if (!dtype || name_of(*dtype) != info.dtype) {
        throw Error(Kind::unsafe,
                    "the engine has " + in_quotes(info.name) + " as " +
                        (dtype ? name_of(*dtype) : "a type of its own") + ", the manifest as " +
                        printable(info.dtype),
                    record_->plan, build_hint(*bundle_));
      }
    }
  }
}

void EngineSession::take_profile(const std::vector<Named>& inputs) const {
  for (size_t number = 0; number < record_->profiles.size(); ++number) {
    if (!fits(record_->profiles[number], inputs)) continue;
    done(plan_->take_profile(static_cast<int>(number), device_.stream()), "take the profile");
    return;
  }
  std::vector<std::string> sizes;
  for (const TensorInfo& info : part_->inputs) {
    sizes.push_back(printable(info.name) + " " + words_of(view_of(inputs, info.name).shape));
  }
  throw Error(Kind::usage, "no profile of the engine has room for " + listed(sizes), record_->plan,
              "build it with a larger --max-batch, --max-tokens or --max-image-tokens");
}

void EngineSession::done(bool did, const std::string& what) const {
  if (did) return;
  throw Error(Kind::environment, "TensorRT does not " + what + ": " + tensorrt_->last_words(),
              record_->plan);
}

std::vector<int64_t> EngineSession::shape_of(const TensorInfo& info) const {
  std::vector<int64_t> shape = plan_->shape_of(info.name.c_str());
  if (std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size < 0; })) {
    throw Error(Kind::unsupported,
                "TensorRT does not know the size of " + in_quotes(info.name) + " before it runs",
                record_->plan);
  }
  return shape;
}

std::vector<Tensor> EngineSession::run(const std::vector<Named>& inputs,
                                       const std::vector<std::string>& outputs) const {
  check_outputs(outputs, part_->outputs);
  check_inputs(inputs, part_->inputs);
  const std::lock_guard<std::mutex> lock(mutex_);
  device_.enter();
  take_profile(inputs);
  std::map<std::string, DeviceBuffer> memory;
  const auto place = [&](const std::string& name, size_t bytes) -> DeviceBuffer& {
    DeviceBuffer& made =
        memory.emplace(std::piecewise_construct, std::tuple(name), std::tuple(bytes)).first->second;
    done(plan_->set_address(name.c_str(), made.address()), "take " + in_quotes(name));
    return made;
  };
  for (const Named& each : inputs) {
    done(plan_->set_shape(each.name.c_str(), each.view.shape), "take " + in_quotes(each.name));
    place(each.name, each.view.bytes).write(each.view.data);
  }
  std::map<std::string, Place> places;
  for (const TensorInfo& info : part_->outputs) {
    const Place made{*dtype_named(info.dtype), shape_of(info)};
    place(info.name, static_cast<size_t>(elements_of(made.shape)) * size_of(made.dtype));
    places.emplace(info.name, made);
  }
  done(plan_->enqueue(device_.stream()), "run the engine");
  device_.synchronize();
  std::vector<Tensor> tensors;
  for (const std::string& name : outputs.empty() ? names_of(part_->outputs) : outputs) {
    const Place& made = places.at(name);
    Array array = Array::of(made.dtype, made.shape);
    memory.at(name).read(array.data.data());
    tensors.emplace_back(std::move(array));
  }
  return tensors;
}

}  // namespace moe::runtime
