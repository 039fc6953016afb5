// Strict JSON: what two readers could understand in two ways is refused.
#include "core/json.h"

#include "../check.h"
#include "core/sha256.h"
#include "core/words.h"
#include "refused.h"

namespace moe::tests {

using runtime::json;
using runtime::Members;
using runtime::parse;

TEST(json_that_means_one_thing_is_read) {
  const json value = parse(R"( {"a": [1, -2, 3.5, "x\u00e9", null, true], "b": {}} )", "file");
  CHECK(value["a"][3] == "x\xC3\xA9", "%s", value.dump().c_str());
  CHECK(value["a"][1].get<int64_t>() == -2, "%s", value.dump().c_str());
}

TEST(json_that_a_forgiving_reader_takes_is_refused) {
  const char* const texts[] = {
      "",
      "{",
      "{} {}",
      "[1,]",
      "{\"a\": 1, \"a\": 2}",
      "[NaN]",
      "[Infinity]",
      "[1e999]",
      "[18446744073709551616]",
      "// a comment\n{}",
      "\xEF\xBB\xBF{}",
      "[\"\xFF\"]",
      "[\"\\ud800\"]",
      "[\"a\nb\"]",
      "[01]",
      "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]",
      "{'a': 1}",
  };
  for (const char* text : texts) {
    CHECK(!refused([&] { parse(text, "file"); }).empty(), "%s was read", text);
  }
  const std::string zero("{}\0x", 4);
  CHECK(!refused([&] { parse(zero, "file"); }).empty(), "a zero byte ended it");
}

TEST(members_are_of_the_type_that_was_asked_for) {
  const json value = parse(R"({"whole": 1, "half": 0.5, "yes": true, "word": "x"})", "file");
  const auto read = [&](const char* name, auto as) {
    return refused([&] { as(Members(value, "file").at(name)); });
  };
  const auto integer = [](const runtime::Field& field) { field.integer(); };
  const auto number = [](const runtime::Field& field) { field.number(); };
  const auto boolean = [](const runtime::Field& field) { field.boolean(); };
  CHECK(read("whole", integer).empty() && read("whole", number).empty(), "a whole number");
  CHECK(!read("half", integer).empty(), "a half is no integer");
  CHECK(!read("yes", integer).empty() && !read("whole", boolean).empty(), "true is not 1");
  CHECK(!read("word", number).empty() && !read("nothing", number).empty(), "text, and nothing");
  const std::string unknown = refused([&] {
    Members members(value, "file");
    members.at("whole");
    members.done();
  });
  CHECK(unknown.find("'half'") != std::string::npos, "%s", unknown.c_str());
}

TEST(words_of_a_hostile_file_are_one_line) {
  const std::string shown = runtime::printable("a\n\x1b[31m\xE2\x80\xAE\xFF\xC3\xA9");
  CHECK(shown == "a\\x0a\\x1b[31m\\xe2\\x80\\xae\\xff\xC3\xA9", "%s", shown.c_str());
}

TEST(sha256_is_that_of_the_standard) {
  CHECK(runtime::sha256("abc") ==
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "%s", runtime::sha256("abc").c_str());
  const std::string million(1000000, 'a');
  CHECK(runtime::sha256(million) ==
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "%s", runtime::sha256(million).c_str());
}

}  // namespace moe::tests
