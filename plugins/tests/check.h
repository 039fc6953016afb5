// Tests: sentences that can be false.  Each runs once for a level of CPU (LEVEL_TEST), or once (TEST).
#ifndef MOE_EXPORT_PLUGINS_TESTS_CHECK_H_
#define MOE_EXPORT_PLUGINS_TESTS_CHECK_H_

#include <cstdarg>
#include <cstdio>
#include <string>
#include <vector>

#include "moe_kernels.h"

namespace moe::tests {

struct Failure {
  std::string text;
};

struct Test {
  const char* name;
  void (*once)();
  void (*of_level)(const Isa* isa);
};

// In the order of registration.
inline std::vector<Test>& all_tests() {
  static std::vector<Test> tests;
  return tests;
}

struct Registration {
  explicit Registration(const Test& test) { all_tests().push_back(test); }
};

__attribute__((format(printf, 1, 2))) inline std::string words(const char* format, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

#define TEST(name)                                                                  \
  static void name();                                                               \
  static const ::moe::tests::Registration register_##name({#name, name, nullptr});  \
  static void name()

#define LEVEL_TEST(name)                                                            \
  static void name(const ::moe::Isa* isa);                                          \
  static const ::moe::tests::Registration register_##name({#name, nullptr, name});  \
  static void name(const ::moe::Isa* isa)

// Ends the test where the condition is false; the rest is what printf would take.
#define CHECK(condition, ...)                                                                    \
  do {                                                                                           \
    if (!(condition))                                                                            \
      throw ::moe::tests::Failure{::moe::tests::words("%s:%d: %s is false: ", __FILE__, __LINE__, \
                                                      #condition) +                              \
                                  ::moe::tests::words(__VA_ARGS__)};                             \
  } while (false)

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_CHECK_H_
