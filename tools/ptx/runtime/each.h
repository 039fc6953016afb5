// A function over the lanes of a mask.
#ifndef MOE_EXPORT_TOOLS_PTX_EACH_H_
#define MOE_EXPORT_TOOLS_PTX_EACH_H_

#include "machine.h"

namespace ptx {

// d may be one of the sources: lanes never look at each other, which the compiler is told.
template <class T, class Function>
inline void each(const Mask& m, T* d, Function function) {
  if (m.bits == kAllLanes) {
#pragma GCC ivdep
    for (int i = 0; i < kLanes; ++i) d[i] = static_cast<T>(function(i));
    return;
  }
#pragma GCC ivdep
  for (int i = 0; i < kLanes; ++i) d[i] = m.lane.v[i] ? static_cast<T>(function(i)) : d[i];
}

// For functions that would trap or cost where a lane is off.
template <class Function>
inline void each_active(u32 bits, Function function) {
  for (; bits; bits &= bits - 1) function(__builtin_ctz(bits));
}

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "another size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace ptx

#endif  // MOE_EXPORT_TOOLS_PTX_EACH_H_
