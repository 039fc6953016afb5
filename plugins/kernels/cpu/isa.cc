// Which level of CPU this is.
#include "isa.h"

#include <cstdlib>
#include <cstring>

#if MOE_EXPORT_AVX512
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace moe {
namespace {

struct Level {
  const Isa* isa;
  bool (*runs_here)();
};

#if MOE_EXPORT_X86
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}

#endif

#if MOE_EXPORT_AVX512
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}

// Linux gives a process its tiles when it asks for them, once.
bool may_use_tiles() {
#ifdef __linux__
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_avx512_amx() {
  unsigned a, b, c, d;
  if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kAll = kBf16 | kTile | kInt8;
  static const bool may = (d & kAll) == kAll && may_use_tiles();
  return may;
}
#endif

// From the best to the plainest.
constexpr Level kLevels[] = {
#if MOE_EXPORT_AVX512
    {&kAvx512Amx, has_avx512_amx},
    {&kAvx512Bf16, has_avx512_bf16},
    {&kAvx512, has_avx512},
#endif
#if MOE_EXPORT_X86
    {&kAvx2, has_avx2},
#endif
    {&kPortable, [] { return true; }},
};

void run_serially(void*, size_t count, void (*task)(void*, size_t), void* argument) {
  for (size_t i = 0; i < count; ++i) task(argument, i);
}

}  // namespace

Parallel serial() { return {run_serially, nullptr}; }

const Isa* isa_named(const char* name) {
  for (const Level& level : kLevels)
    if (!std::strcmp(level.isa->name, name) && level.runs_here()) return level.isa;
  return nullptr;
}

const Isa* isa_best(const char** why) {
  const char* wanted = std::getenv("MOE_EXPORT_CPU");
  if (wanted && *wanted) {
    const Isa* isa = isa_named(wanted);
    if (!isa) *why = "MOE_EXPORT_CPU names a level that this CPU or this build does not have";
    return isa;
  }
  for (const Level& level : kLevels)
    if (level.runs_here()) return level.isa;
  return nullptr;
}

const char* isa_name(const Isa* isa) { return isa->name; }

}  // namespace moe
