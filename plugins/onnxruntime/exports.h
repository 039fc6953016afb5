// How a function leaves a library, in which all else is hidden.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_EXPORTS_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_EXPORTS_H_

#define MOE_EXPORT_API extern "C" __attribute__((visibility("default")))

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_EXPORTS_H_
