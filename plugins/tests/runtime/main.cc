// Runs the tests that the files beside it register.
#include <cstdio>

#include "../check.h"

int main() {
  int failures = 0;
  for (const moe::tests::Test& test : moe::tests::all_tests()) {
    try {
      test.once();
    } catch (const moe::tests::Failure& failure) {
      std::fprintf(stderr, "%s: %s\n", test.name, failure.text.c_str());
      ++failures;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s: threw %s\n", test.name, error.what());
      ++failures;
    }
  }
  std::printf("%zu tests, %d failed\n", moe::tests::all_tests().size(), failures);
  return failures == 0 ? 0 : 1;
}
