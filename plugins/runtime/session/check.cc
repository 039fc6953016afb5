// Whether what is given is what a graph takes.
#include <algorithm>
#include <map>

#include "core/words.h"
#include "session/session.h"

namespace moe::runtime {

namespace {

std::vector<std::string> names_of(const std::vector<TensorInfo>& infos) {
  std::vector<std::string> made;
  for (const TensorInfo& info : infos) made.push_back(printable(info.name));
  return made;
}

std::string got(const View& view, const TensorInfo& info) {
  return std::string("got ") + name_of(view.dtype) + " " + words_of(view.shape) + ", expected " +
         info.words();
}

// Each symbolic dimension's size, and the input that set it.
using Sizes = std::map<std::string, std::pair<int64_t, std::string>>;

void check_array(const View& view, const TensorInfo& info, Sizes* sizes) {
  // Words are made where somebody reads them: this is on the way of every run.
  const auto input = [&] { return "input " + in_quotes(info.name); };
  if (info.dtype == "str") {
    throw Error(Kind::unsupported, input() + " is text, which this release cannot pass");
  }
  if (name_of(view.dtype) != info.dtype) {
    throw Error(Kind::usage, input() + " has the wrong dtype: " + got(view, info));
  }
  if (view.shape.size() != info.shape.size()) {
    throw Error(Kind::usage, input() + " has the wrong number of axes: " + got(view, info));
  }
  if (static_cast<size_t>(elements_of(view.shape)) * size_of(view.dtype) != view.bytes) {
    throw Error(Kind::usage, input() + " has " + std::to_string(view.bytes) +
                                 " bytes, which are not those of its shape: " + got(view, info));
  }
  for (size_t axis = 0; axis < view.shape.size(); ++axis) {
    const int64_t size = view.shape[axis];
    const Dimension& dim = info.shape[axis];
    if (dim.size && size != *dim.size) {
      throw Error(Kind::usage, input() + " has size " + std::to_string(size) + " on axis " +
                                   std::to_string(axis) + ": " + got(view, info));
    }
    if (dim.name.empty()) continue;
    const auto [known, first] = sizes->emplace(dim.name, std::make_pair(size, info.name));
    if (!first && known->second.first != size) {
      throw Error(Kind::usage,
                  input() + " has " + printable(dim.name) + " = " + std::to_string(size) + ", " +
                      in_quotes(known->second.second) + " has " + printable(dim.name) + " = " +
                      std::to_string(known->second.first) + ": " + got(view, info));
    }
  }
}

const Named* find(const std::vector<Named>& given, const std::string& name) {
  for (const Named& each : given) {
    if (each.name == name) return &each;
  }
  return nullptr;
}

}  // namespace

void check_inputs(const std::vector<Named>& given, const std::vector<TensorInfo>& expected) {
  const auto known = [&](const std::string& name) {
    for (const TensorInfo& info : expected) {
      if (info.name == name) return true;
    }
    return false;
  };
  const auto hint = [&] { return "the inputs are " + listed(names_of(expected)); };
  for (const Named& each : given) {
    if (!known(each.name)) throw Error(Kind::usage, "unknown input " + in_quotes(each.name), "", hint());
    if (find(given, each.name) != &each) {
      throw Error(Kind::usage, "input " + in_quotes(each.name) + " is given twice");
    }
  }
  for (const TensorInfo& info : expected) {
    if (find(given, info.name) == nullptr) {
      throw Error(Kind::usage, "missing input " + info.words(), "", hint());
    }
  }
  Sizes sizes;
  for (const TensorInfo& info : expected) check_array(find(given, info.name)->view, info, &sizes);
}

void check_outputs(const std::vector<std::string>& wanted, const std::vector<TensorInfo>& known) {
  for (const std::string& name : wanted) {
    const bool found = std::any_of(known.begin(), known.end(),
                                   [&](const TensorInfo& info) { return info.name == name; });
    if (!found) {
      throw Error(Kind::usage, "unknown output " + in_quotes(name), "",
                  "the outputs are " + listed(names_of(known)));
    }
  }
}

}  // namespace moe::runtime
