// usage: kernel_tests once               what no level of CPU is needed for
//        kernel_tests level NAME         everything that a level computes
//        kernel_tests fuzz NAME [--seconds S] [--seed N] [--rounds N]
//        ... --only TEXT                 tests whose name holds TEXT
//
// Exit status 0: all is well; 1: something failed; 77: this CPU lacks the level, nothing was run.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "check.h"
#include "fuzz.h"
#if MOE_EXPORT_EMULATED
#include "cpu/isa.h"
#endif

namespace {

using moe::Isa;
using moe::tests::Test;

constexpr int kNotRun = 77;

const Isa* level_named(const char* name) {
#if MOE_EXPORT_EMULATED
  // AVX-512 in terms of AVX2: emulated/immintrin.h.
  if (!moe::isa_named("avx2")) return nullptr;
  for (const Isa* isa : {&moe::kAvx512, &moe::kAvx512Bf16, &moe::kAvx512Amx})
    if (!std::strcmp(isa->name, name)) return isa;
  return nullptr;
#else
  return moe::isa_named(name);
#endif
}

struct Arguments {
  std::string what, level, only;
  double seconds = 2;
  uint64_t seed = 0, rounds = ~uint64_t(0);
};

bool parse(int argc, char** argv, Arguments* a) {
  if (argc < 2) return false;
  a->what = argv[1];
  int i = 2;
  if (a->what != "once") {
    if (i >= argc) return false;
    a->level = argv[i++];
  }
  for (; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const char* value = argv[i + 1];
    if (name == "--only")
      a->only = value;
    else if (name == "--seconds")
      a->seconds = std::atof(value);
    else if (name == "--seed")
      a->seed = std::strtoull(value, nullptr, 10);
    else if (name == "--rounds")
      a->rounds = std::strtoull(value, nullptr, 10);
    else
      return false;
  }
  return i == argc && (a->what == "once" || a->what == "level" || a->what == "fuzz");
}

int run_tests(const Isa* isa, const std::string& only) {
  int ran = 0, failed = 0;
  for (const Test& test : moe::tests::all_tests()) {
    if ((isa ? test.of_level == nullptr : test.once == nullptr) ||
        !std::strstr(test.name, only.c_str()))
      continue;
    ++ran;
    try {
      isa ? test.of_level(isa) : test.once();
      std::printf("ok     %s\n", test.name);
    } catch (const moe::tests::Failure& failure) {
      ++failed;
      std::printf("FAILED %s\n  %s\n", test.name, failure.text.c_str());
    }
    std::fflush(stdout);
  }
  std::printf("%s: %d of %d tests failed\n", isa ? moe::isa_name(isa) : "no level", failed, ran);
  return failed || !ran;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments a;
  if (!parse(argc, argv, &a)) {
    std::fprintf(stderr, "usage: kernel_tests once|level NAME|fuzz NAME [--only TEXT] "
                         "[--seconds S] [--seed N] [--rounds N]\n");
    return 2;
  }
  if (a.what == "once") return run_tests(nullptr, a.only);
  const Isa* isa = level_named(a.level.c_str());
  if (!isa) {
    std::printf("not run: %s: this CPU lacks it\n", a.level.c_str());
    return kNotRun;
  }
  if (a.what == "level") return run_tests(isa, a.only);
  if (!a.seed) a.seed = std::random_device()();
  return moe::tests::fuzz(isa, a.seed, a.seconds, a.rounds) ? 0 : 1;
}
