// How fast this machine reads memory: what a kernel that streams weights is measured against.
#ifndef MOE_EXPORT_PLUGINS_KERNELS_PROBE_H_
#define MOE_EXPORT_PLUGINS_KERNELS_PROBE_H_

#if defined(_WIN32)
#define MOE_EXPORT_PROBE_API extern "C" __declspec(dllexport)
#else
#define MOE_EXPORT_PROBE_API extern "C" __attribute__((visibility("default")))
#endif

// Bytes per second that `threads` threads (1 to 64) read together, over at least `seconds` and one
// pass through 512 MiB in 2 MiB pages where the system grants them.  The pages belong to the
// process from the first call on, so that a later sample takes no longer than it was asked to.
// Calls run one after the other.  0 where the memory or the threads are not to be had.
MOE_EXPORT_PROBE_API double moe_export_read_bandwidth(int threads, double seconds);

#endif  // MOE_EXPORT_PLUGINS_KERNELS_PROBE_H_
