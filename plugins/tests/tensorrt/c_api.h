// The harness for callers that are not C++: tests/gpu/plugin_harness.py.
#ifndef MOE_EXPORT_PLUGINS_TESTS_TENSORRT_C_API_H_
#define MOE_EXPORT_PLUGINS_TESTS_TENSORRT_C_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Types are TensorRT's numbers: nvinfer1::DataType, nvinfer1::PluginFieldType.
typedef struct {
  const char* name;
  const void* data;
  int32_t type, length;
} TrtField;

typedef struct {
  const void* data;
  int64_t dims[8], min[8], max[8];
  int32_t type, rank;
} TrtInput;

typedef struct {
  void* data;  // from malloc
  size_t bytes;
  int64_t dims[8];
  int32_t type, rank;
} TrtOutput;

typedef struct {
  const char *op, *name;
  const TrtField* fields;
  const TrtInput* inputs;
  int32_t field_count, input_count;
  int32_t shifted;  // not 0: inputs with a dynamic axis, and outputs, begin one element late
} TrtNode;

// Null with words in why where the library does not load.
void* trt_open(const char* path, char* why, size_t why_size);
void trt_close(void* library);

// The plugin's whole life; 0, or 1 with words in why.  memory is "host" or "driver".  Writes at most 2
// outputs, their number to *output_count, and the workspace.
int trt_live(void* library, const TrtNode* node, const char* memory, TrtOutput* outputs,
             int32_t* output_count, size_t* workspace, char* why, size_t why_size);
void trt_free(void* data);

// Seconds of one enqueue of a plugin that was built for the node, a mean of `runs`.
int trt_time(void* library, const TrtNode* node, const char* memory, int32_t runs, double* seconds,
             char* why, size_t why_size);

// One bit for each type that input or output `position` takes; 1 with words in why where the node
// cannot be built.
int trt_types_taken(void* library, const TrtNode* node, int32_t position, uint32_t* types, char* why,
                    size_t why_size);

// What the node serialises: writes at most `most` fields, whose memory lives until the next call, and
// returns how many there are; -1 with words in why where it cannot be made.
int32_t trt_serialised(void* library, const TrtNode* node, TrtField* fields, int32_t most, char* why,
                       size_t why_size);
// The attributes that a creator declares, in the same way.
int32_t trt_declared(void* library, const char* op, TrtField* fields, int32_t most, char* why,
                     size_t why_size);

#ifdef __cplusplus
}
#endif

#endif  // MOE_EXPORT_PLUGINS_TESTS_TENSORRT_C_API_H_
