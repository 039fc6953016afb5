// ONNX Runtime's C interface, as much of it as running a graph needs.
//
// Written out for the reasons of docs/decisions/0008, as plugins/onnxruntime/ort_abi.h is for custom
// ops: the table only ever grows at its end, gaps are counted, and tests/native/abi.cc compares this
// file with onnxruntime_c_api.h at compile time.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_ORT_API_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_ORT_API_H_

#include <cstddef>
#include <cstdint>

namespace moe::runtime::ort {

// What the kernels ask for too; the newest slot here, RegisterCustomOpsLibrary_V2, is older.
constexpr uint32_t kApiVersion = 17;

struct OrtStatus;
struct OrtValue;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtTypeInfo;
struct OrtTensorTypeAndShapeInfo;
struct OrtMemoryInfo;
struct OrtAllocator;

enum OrtErrorCode {
  ORT_FAIL = 1,
  ORT_INVALID_ARGUMENT = 2,
  ORT_RUNTIME_EXCEPTION = 6,
  ORT_NOT_IMPLEMENTED = 9
};

enum ONNXTensorElementDataType {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING = 8
};

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_FATAL = 4 };
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };

// clang-format off
struct OrtApi {
  void* gap_0;
  OrtErrorCode (*GetErrorCode)(const OrtStatus* status);
  const char* (*GetErrorMessage)(const OrtStatus* status);
  OrtStatus* (*CreateEnv)(OrtLoggingLevel level, const char* name, OrtEnv** out);
  void* gap_4[3];
  OrtStatus* (*CreateSession)(const OrtEnv* env, const char* path, const OrtSessionOptions* options, OrtSession** out);
  void* gap_8;
  OrtStatus* (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names, const OrtValue* const* inputs, size_t input_count, const char* const* output_names, size_t output_count, OrtValue** outputs);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** out);
  void* gap_11[6];
  OrtStatus* (*DisableMemPattern)(OrtSessionOptions* options);
  void* gap_18[4];
  OrtStatus* (*SetSessionLogSeverityLevel)(OrtSessionOptions* options, int level);
  void* gap_23;
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions* options, int count);
  OrtStatus* (*SetInterOpNumThreads)(OrtSessionOptions* options, int count);
  void* gap_26[4];
  OrtStatus* (*SessionGetInputCount)(const OrtSession* session, size_t* out);
  OrtStatus* (*SessionGetOutputCount)(const OrtSession* session, size_t* out);
  void* gap_32;
  OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession* session, size_t index, OrtTypeInfo** out);
  OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession* session, size_t index, OrtTypeInfo** out);
  void* gap_35;
  OrtStatus* (*SessionGetInputName)(const OrtSession* session, size_t index, OrtAllocator* allocator, char** out);
  OrtStatus* (*SessionGetOutputName)(const OrtSession* session, size_t index, OrtAllocator* allocator, char** out);
  void* gap_38;
  OrtStatus* (*CreateRunOptions)(OrtRunOptions** out);
  void* gap_40[6];
  OrtStatus* (*RunOptionsSetTerminate)(OrtRunOptions* options);
  void* gap_47[2];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* memory, void* data, size_t bytes, const int64_t* shape, size_t rank, ONNXTensorElementDataType type, OrtValue** out);
  void* gap_50;
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  void* gap_52[3];
  OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo* info, const OrtTensorTypeAndShapeInfo** out);
  void* gap_56[4];
  OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType* out);
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count);
  OrtStatus* (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info, const char** names, size_t count);
  void* gap_64;
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** out);
  void* gap_66[3];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType type, OrtMemType memory, OrtMemoryInfo** out);
  void* gap_70[6];
  OrtStatus* (*AllocatorFree)(OrtAllocator* allocator, void* memory);
  void* gap_77;
  OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator** out);
  void* gap_79[14];
  void (*ReleaseStatus)(OrtStatus* status);
  void* gap_94;
  void (*ReleaseSession)(OrtSession* session);
  void (*ReleaseValue)(OrtValue* value);
  void (*ReleaseRunOptions)(OrtRunOptions* options);
  void (*ReleaseTypeInfo)(OrtTypeInfo* info);
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  void (*ReleaseSessionOptions)(OrtSessionOptions* options);
  void* gap_101[29];
  OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions* options, const char* key, const char* value);
  void* gap_131[97];
  OrtStatus* (*RegisterCustomOpsLibrary_V2)(OrtSessionOptions* options, const char* path);
  void* gap_229[44];
  OrtStatus* (*SetDeterministicCompute)(OrtSessionOptions* options, bool value);
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
// clang-format on

}  // namespace moe::runtime::ort

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_ORT_API_H_
