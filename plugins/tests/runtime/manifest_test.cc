// Paths and names of a manifest.  Whole manifests are held beside the Python reader by tests/embed.
#include "bundle/manifest.h"

#include "../check.h"
#include "bundle/casefold.h"
#include "refused.h"

namespace moe::tests {

using runtime::why_no_path;

TEST(paths_stay_in_the_bundle_on_every_system) {
  for (const char* path : {"a", "a/b.onnx", "a b/c", "\xC3\xA9/x", "..a", ".a/b.."}) {
    CHECK(!why_no_path(path), "%s: %s", path, why_no_path(path)->c_str());
  }
  for (const char* path : {"", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a/.", "a\\b", "c:a",
                           "a\nb", "a\x7f"}) {
    CHECK(why_no_path(path), "%s", path);
  }
  CHECK(!why_no_path(std::string(255, 'a')), "255 bytes");
  CHECK(why_no_path(std::string(256, 'a')), "256 bytes");
  std::string deep = "a";
  while (deep.size() < 2047) deep += "/a";
  CHECK(!why_no_path(deep.substr(0, 2047)) && why_no_path(deep + "/aa"), "a long path");
}

TEST(names_fold_as_python_folds_them) {
  const std::pair<const char*, const char*> pairs[] = {
      {"ABC", "abc"},
      {"\xC3\x89", "\xC3\xA9"},          // E with acute
      {"\xC3\x9F", "ss"},                // sharp s
      {"\xCE\xA3\xCF\x82", "\xCF\x83\xCF\x83"},  // both sigmas
      {"\xEA\xAD\xB0", "\xE1\x8E\xA0"},  // Cherokee, whose capitals came first
      {"\xF0\x90\x90\x80", "\xF0\x90\x90\xA8"},  // Deseret
  };
  for (const auto& [text, folded] : pairs) {
    CHECK(runtime::casefolded(text) == folded, "%s", runtime::casefolded(text).c_str());
  }
}

TEST(a_manifest_of_another_schema_says_so) {
  const auto read = [](const char* text) {
    return refused([&] { runtime::Manifest::from_json(text, "file"); });
  };
  CHECK(read("[]").find("object") != std::string::npos, "%s", read("[]").c_str());
  const std::string other = read(R"({"schema_version": 8})");
  CHECK(other.find("schema version 8") != std::string::npos, "%s", other.c_str());
  CHECK(!read(R"({"schema_version": true})").empty(), "true is not 1");
}

}  // namespace moe::tests
