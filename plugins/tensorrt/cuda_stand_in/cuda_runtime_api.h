// What TensorRT's headers ask of CUDA's, where CUDA is not installed: two handles that they only pass on.
#ifndef MOE_EXPORT_PLUGINS_TENSORRT_CUDA_STAND_IN_CUDA_RUNTIME_API_H_
#define MOE_EXPORT_PLUGINS_TENSORRT_CUDA_STAND_IN_CUDA_RUNTIME_API_H_

typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;

#endif  // MOE_EXPORT_PLUGINS_TENSORRT_CUDA_STAND_IN_CUDA_RUNTIME_API_H_
