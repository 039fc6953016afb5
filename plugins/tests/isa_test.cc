// Which level runs.
#include <cstdlib>
#include <cstring>

#include "check.h"

namespace moe::tests {
namespace {

struct Variable {
  explicit Variable(const char* value) { setenv("MOE_EXPORT_CPU", value, 1); }
  ~Variable() { unsetenv("MOE_EXPORT_CPU"); }
};

TEST(every_cpu_has_the_portable_level) {
  const Isa* isa = isa_named("portable");
  CHECK(isa && !std::strcmp(isa_name(isa), "portable"), "it is not there");
}

TEST(a_level_that_there_is_not_is_not_found) {
  for (const char* name : {"", "sse", "AVX2", "avx2 ", "portable\n"})
    CHECK(!isa_named(name), "'%s'", name);
}

TEST(the_best_level_is_one_that_can_be_named) {
  unsetenv("MOE_EXPORT_CPU");
  const char* why = nullptr;
  const Isa* isa = isa_best(&why);
  CHECK(isa && isa_named(isa_name(isa)) == isa, "%s", isa ? isa_name(isa) : "none");
  const Variable empty("");
  CHECK(isa_best(&why) == isa, "an empty MOE_EXPORT_CPU changes it");
}

TEST(the_variable_chooses_the_level_or_says_why_not) {
  const char* why = nullptr;
  {
    const Variable variable("portable");
    CHECK(isa_best(&why) == isa_named("portable"), "portable was not chosen");
  }
  const Variable variable("of-the-future");
  CHECK(!isa_best(&why) && why && std::strstr(why, "MOE_EXPORT_CPU"), "%s", why ? why : "no reason");
}

}  // namespace
}  // namespace moe::tests
