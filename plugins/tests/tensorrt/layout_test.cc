// What a plugin library and TensorRT must agree on to the byte.  The numbers are those of TensorRT 10.0
// to 11.1; headers in which one of them differs are for another binary interface than this library's.
#include <cstdio>
#include <cstring>

#include <NvInferRuntime.h>

namespace {

using namespace nvinfer1;

static_assert(sizeof(void*) == 8, "the numbers are those of 64-bit systems");

static_assert(Dims::MAX_DIMS == 8);
static_assert(sizeof(Dims) == 72 && offsetof(Dims, nbDims) == 0 && offsetof(Dims, d) == 8);

static_assert(sizeof(PluginField) == 24);
static_assert(offsetof(PluginField, name) == 0 && offsetof(PluginField, data) == 8);
static_assert(offsetof(PluginField, type) == 16 && offsetof(PluginField, length) == 20);
static_assert(sizeof(PluginFieldCollection) == 16);
static_assert(offsetof(PluginFieldCollection, nbFields) == 0);
static_assert(offsetof(PluginFieldCollection, fields) == 8);

static_assert(sizeof(PluginTensorDesc) == 88 && offsetof(PluginTensorDesc, dims) == 0);
static_assert(offsetof(PluginTensorDesc, type) == 72 && offsetof(PluginTensorDesc, format) == 76);
static_assert(offsetof(PluginTensorDesc, scale) == 80);
static_assert(sizeof(DynamicPluginTensorDesc) == 304);
static_assert(offsetof(DynamicPluginTensorDesc, desc) == 0);
static_assert(offsetof(DynamicPluginTensorDesc, min) == 88);
static_assert(offsetof(DynamicPluginTensorDesc, max) == 160);
static_assert(offsetof(DynamicPluginTensorDesc, opt) == 232);

static_assert(sizeof(DimsExprs) == 72 && offsetof(DimsExprs, nbDims) == 0);
static_assert(offsetof(DimsExprs, d) == 8);
static_assert(sizeof(InterfaceInfo) == 16 && offsetof(InterfaceInfo, kind) == 0);
static_assert(offsetof(InterfaceInfo, major) == 8 && offsetof(InterfaceInfo, minor) == 12);
// A table of virtual functions, and what they forward to.
static_assert(sizeof(IDimensionExpr) == 16 && sizeof(IExprBuilder) == 16);

template <typename Enum>
constexpr int number(Enum value) {
  return static_cast<int>(value);
}

static_assert(sizeof(DataType) == 4 && sizeof(PluginFieldType) == 4 && sizeof(TensorFormat) == 4);
static_assert(number(DataType::kFLOAT) == 0 && number(DataType::kHALF) == 1);
static_assert(number(DataType::kINT8) == 2 && number(DataType::kINT32) == 3);
static_assert(number(DataType::kBF16) == 7 && number(DataType::kINT4) == 9);
static_assert(number(TensorFormat::kLINEAR) == 0);
static_assert(number(PluginFieldType::kFLOAT32) == 1 && number(PluginFieldType::kINT32) == 5);
static_assert(number(PluginFieldType::kCHAR) == 6);
static_assert(number(PluginCapabilityType::kCORE) == 0 && number(PluginCapabilityType::kBUILD) == 1);
static_assert(number(PluginCapabilityType::kRUNTIME) == 2);
static_assert(number(TensorRTPhase::kBUILD) == 0 && number(TensorRTPhase::kRUNTIME) == 1);
static_assert(number(DimensionOperation::kPROD) == 1);

// Where a virtual function stands in its class's table.  In the Itanium C++ interface, which Linux
// compilers share, a pointer to a virtual member holds 1 + its offset.
template <typename Member>
int slot(Member member) {
  std::ptrdiff_t offset = 0;
  static_assert(sizeof member >= sizeof offset);
  std::memcpy(&offset, &member, sizeof offset);
  return offset & 1 ? static_cast<int>((offset - 1) / static_cast<std::ptrdiff_t>(sizeof(void*))) : -1;
}

struct Expected {
  const char* name;
  int slot, expected;
};

#define AT(expected, type, member) {#type "::" #member, slot(&type::member), expected}

// 0: language, 1: info, 2 and 3: destructors.
const Expected kSlots[] = {
    AT(0, IVersionedInterface, getAPILanguage),
    AT(1, IVersionedInterface, getInterfaceInfo),
    AT(4, IPluginV3, getCapabilityInterface),
    AT(5, IPluginV3, clone),
    AT(4, IPluginV3OneCore, getPluginName),
    AT(5, IPluginV3OneCore, getPluginVersion),
    AT(6, IPluginV3OneCore, getPluginNamespace),
    AT(4, IPluginV3OneBuild, configurePlugin),
    AT(5, IPluginV3OneBuild, getOutputDataTypes),
    AT(6, IPluginV3OneBuild, getOutputShapes),
    AT(7, IPluginV3OneBuild, supportsFormatCombination),
    AT(8, IPluginV3OneBuild, getNbOutputs),
    AT(9, IPluginV3OneBuild, getWorkspaceSize),
    AT(10, IPluginV3OneBuild, getValidTactics),
    AT(11, IPluginV3OneBuild, getNbTactics),
    AT(12, IPluginV3OneBuild, getTimingCacheID),
    AT(13, IPluginV3OneBuild, getFormatCombinationLimit),
    AT(14, IPluginV3OneBuild, getMetadataString),
    AT(4, IPluginV3OneRuntime, setTactic),
    AT(5, IPluginV3OneRuntime, onShapeChange),
    AT(6, IPluginV3OneRuntime, enqueue),
    AT(7, IPluginV3OneRuntime, attachToContext),
    AT(8, IPluginV3OneRuntime, getFieldsToSerialize),
    AT(4, IPluginCreatorV3One, createPlugin),
    AT(5, IPluginCreatorV3One, getFieldNames),
    AT(6, IPluginCreatorV3One, getPluginName),
    AT(7, IPluginCreatorV3One, getPluginVersion),
    AT(8, IPluginCreatorV3One, getPluginNamespace),
    AT(2, apiv::VExprBuilder, constant),
    AT(3, apiv::VExprBuilder, operation),
};

}  // namespace

int main() {
  int wrong = 0;
  for (const Expected& row : kSlots) {
    if (row.slot == row.expected) continue;
    std::printf("FAILED %s is function %d of its table, expected %d\n", row.name, row.slot,
                row.expected);
    ++wrong;
  }
  std::printf("%d of %zu functions are elsewhere\n", wrong, sizeof kSlots / sizeof kSlots[0]);
  return wrong != 0;
}
