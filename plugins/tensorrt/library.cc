// What the library exports: the creators of its plugins.
#include "plugin.h"

#define MOE_EXPORT_API extern "C" __attribute__((visibility("default")))

namespace {

using Creators = nvinfer1::IPluginCreatorInterface* const*;

Creators all_creators(int32_t* count) {
  static moe_trt::Creator router(moe_trt::router()), experts(moe_trt::experts()),
      dispatch(moe_trt::dispatch()), grouped_matmul(moe_trt::grouped_matmul()),
      combine(moe_trt::combine());
  static nvinfer1::IPluginCreatorInterface* const list[] = {&router, &experts, &dispatch,
                                                            &grouped_matmul, &combine};
  *count = static_cast<int32_t>(sizeof list / sizeof list[0]);
  return list;
}

}  // namespace

MOE_EXPORT_API Creators getCreators(int32_t& count) {
  count = 0;
  return moe_trt::guarded(Creators{nullptr}, [&] { return all_creators(&count); });
}

// A plan that carries the library asks for this; the logger itself is another class in each version.
MOE_EXPORT_API void setLoggerFinder(nvinfer1::ILoggerFinder*) {}
