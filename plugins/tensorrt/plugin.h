// TensorRT's view of an op: IPluginV3 with its three capabilities, and the creator.
#ifndef MOE_EXPORT_PLUGINS_TENSORRT_PLUGIN_H_
#define MOE_EXPORT_PLUGINS_TENSORRT_PLUGIN_H_

#include <atomic>

#include "op.h"

namespace moe_trt {

constexpr const char* kNamespace = "moe_export";
constexpr const char* kVersion = "1";

// A node with its op, and which of the op's inputs its own are.
struct MadeOp {
  MadeOp(const OpDefinition& definition, const char* name,
         const nvinfer1::PluginFieldCollection* fields);

  const OpDefinition& definition;
  Node node;
  std::vector<size_t> ports;  // index in the schema, of each input of the node
  std::unique_ptr<const Op> op;

  const Port& port(int32_t position) const;  // inputs, and then outputs
  size_t count() const { return ports.size(); }
};

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit Plugin(std::shared_ptr<const MadeOp> made) : made_(std::move(made)) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return made_->definition.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override;
  int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                             int32_t input_count) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count,
                          const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                          int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 int32_t input_count, int32_t output_count) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept override;
  // What was measured for a node serves every node with the same attributes and shapes.
  const char* getTimingCacheID() noexcept override { return made_->node.summary().c_str(); }
  const char* getMetadataString() noexcept override { return made_->node.summary().c_str(); }

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                        const nvinfer1::PluginTensorDesc*, int32_t) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                  const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return clone();
  }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return made_->node.fields();
  }

 private:
  void require_inputs(int32_t count) const;
  void complain_once(int32_t position, const Tensor& tensor) noexcept;

  std::shared_ptr<const MadeOp> made_;
  // One bit for each input or output whose type was complained about: TensorRT asks many times.
  std::atomic<uint32_t> complained_{0};
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const OpDefinition& definition);

  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return definition_.name; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

 private:
  const OpDefinition& definition_;
  std::vector<Attribute> attributes_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace moe_trt

#endif  // MOE_EXPORT_PLUGINS_TENSORRT_PLUGIN_H_
