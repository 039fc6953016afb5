# MOE_EXPORT_TENSORRT_INCLUDE and MOE_EXPORT_CUDA_INCLUDE: TensorRT's headers, where they are found, and
# CUDA's or the two lines of ours in their place.
if(NOT EXISTS "${MOE_EXPORT_TENSORRT_INCLUDE}/NvInferRuntime.h")
  unset(MOE_EXPORT_TENSORRT_INCLUDE CACHE)  # a folder that went away is looked for again
endif()
find_path(MOE_EXPORT_TENSORRT_INCLUDE NvInferRuntime.h
  HINTS ENV TENSORRT_INCLUDE ENV TENSORRT_ROOT PATH_SUFFIXES include
  DOC "The folder of TensorRT's NvInferRuntime.h")
find_path(MOE_EXPORT_CUDA_INCLUDE cuda_runtime_api.h
  HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES include
  DOC "The folder of CUDA's cuda_runtime_api.h")
if(NOT MOE_EXPORT_CUDA_INCLUDE)
  set(MOE_EXPORT_CUDA_INCLUDE ${CMAKE_CURRENT_LIST_DIR}/cuda_stand_in CACHE PATH "" FORCE)
endif()
