// The life of a node's plugin, from the parser's first question to results, without TensorRT.
#ifndef MOE_EXPORT_PLUGINS_TESTS_TENSORRT_LIFE_H_
#define MOE_EXPORT_PLUGINS_TESTS_TENSORRT_LIFE_H_

#include <string>
#include <vector>

#include "library.h"
#include "memory.h"

namespace moe_trt_tests {

// An input of a node.  Axes where min and max differ are dynamic while the network is built.
struct Input {
  nvinfer1::DataType type;
  nvinfer1::Dims dims, min, max;
  const void* data;
};

struct Node {
  std::string op, name;
  std::vector<nvinfer1::PluginField> fields;
  std::vector<Input> inputs;
  // Whether the graph's own inputs and outputs, which are its user's, begin one element late.
  bool shifted = false;
};

struct Output {
  nvinfer1::DataType type;
  nvinfer1::Dims dims;
  std::vector<uint8_t> bytes;
};

struct Outcome {
  std::vector<Output> outputs;
  size_t workspace = 0;
};

size_t bytes_of(nvinfer1::DataType type, const nvinfer1::Dims& dims);

struct Destroy {
  void operator()(nvinfer1::IPluginV3* plugin) const { delete plugin; }
};
using Plugin = std::unique_ptr<nvinfer1::IPluginV3, Destroy>;

// A plugin of the build phase, as the parser gets it.
Plugin create(const Library& library, const Node& node);

// A copy of a plugin's fields.
class Fields {
 public:
  void add(const nvinfer1::PluginField& field);
  nvinfer1::PluginFieldCollection collection() const {
    return {static_cast<int32_t>(fields_.size()), fields_.data()};
  }

 private:
  std::vector<std::vector<char>> memory_;
  std::vector<nvinfer1::PluginField> fields_;
};

Fields serialised(nvinfer1::IPluginV3& plugin);

// The same in the runtime phase, from what the first one serialises.  Nothing that was handed over
// outlives the call.
Plugin recreate(const Library& library, const Node& node, nvinfer1::IPluginV3& built);

// What the builder asks, in its order; the workspace is for the largest shapes.
Outcome build(nvinfer1::IPluginV3& plugin, const Node& node);

// Writes the outputs, in two contexts that must agree to the bit.
void run(nvinfer1::IPluginV3& plugin, const Node& node, Memory& memory, Outcome* outcome);

// Seconds of one enqueue, the mean of `runs` after as many that are not counted, where nothing that it
// reads is in the device's cache; the host's clock, read when the stream has nothing left to do.
double timed(nvinfer1::IPluginV3& plugin, const Node& node, const Outcome& built, Memory& memory,
             int runs);

// All of it, with a new plugin at each step at which TensorRT may make one.
Outcome live(const Library& library, const Node& node, Memory& memory);

// For input or output `position`, the types that go with linear tensors of the node's other types.  A
// Failure where the plugin takes anything that is not linear.
std::vector<nvinfer1::DataType> types_taken(nvinfer1::IPluginV3& plugin, const Node& node,
                                            const Outcome& built, size_t position);

}  // namespace moe_trt_tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_TENSORRT_LIFE_H_
