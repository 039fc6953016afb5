// References of graphs to data outside themselves, read from bytes.
#include "bundle/wire.h"

#include "../check.h"

namespace moe::tests {

namespace {

using runtime::external_data;

std::string varint(uint64_t value) {
  std::string made;
  for (; value > 127; value >>= 7) made.push_back(static_cast<char>(value | 128));
  made.push_back(static_cast<char>(value));
  return made;
}
std::string number(uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); }
std::string bytes(uint64_t field, const std::string& content) {
  return varint(field << 3 | 2) + varint(content.size()) + content;
}
std::string entry(const std::string& key, const std::string& value) {
  return bytes(13, bytes(1, key) + bytes(2, value));
}

std::string tensor(const std::string& more) { return bytes(8, "w") + number(14, 1) + more; }
std::string whole() {
  return tensor(entry("location", "x.data") + entry("offset", "8") + entry("length", "16"));
}
// A model whose graph holds an initializer.
std::string model(const std::string& initializer) { return bytes(7, bytes(5, initializer)); }

bool fails(const std::string& content) {
  try {
    external_data(content);
    return false;
  } catch (const runtime::WireFault&) {
    return true;
  }
}

}  // namespace

TEST(references_are_found_at_any_depth) {
  // A graph inside an attribute of a node of a function.
  const std::string deep = bytes(25, bytes(7, bytes(5, bytes(6, bytes(5, whole())))));
  for (const std::string& content : {model(whole()), deep}) {
    const auto made = external_data(content);
    CHECK(made.size() == 1 && made[0].location == "x.data", "%zu", made.size());
    CHECK(made[0].offset == 8 && made[0].length == 16, "%s", made[0].tensor.c_str());
  }
}

TEST(references_that_are_half_described_are_refused) {
  CHECK(fails(model(tensor(""))), "no place");
  CHECK(fails(model(tensor(entry("location", "x")))), "no offset");
  CHECK(fails(model(whole() + entry("offset", "9"))), "two offsets");
  CHECK(fails(model(whole() + entry("checksum", "9"))), "a checksum");
  CHECK(fails(model(tensor(entry("location", "x") + entry("offset", "-1") + entry("length", "1")))),
        "a negative offset");
  CHECK(fails(model(tensor(entry("location", "x") + entry("offset", "1") +
                           entry("length", "9999999999999999999")))),
        "a length of 19 digits");
  CHECK(!fails(model(bytes(8, "w"))), "a tensor that is all here");
}

TEST(bytes_that_are_no_message_are_refused) {
  CHECK(fails("\x3a\x05" "ab"), "a field beyond the end");
  CHECK(fails(std::string(1, '\x80')), "a number cut off");
  CHECK(fails(std::string(11, '\xff')), "a number without end");
  CHECK(fails(std::string("\x00\x00", 2)), "a field of number 0");
  CHECK(fails("\x0f"), "a wire type that nobody has");
  // A length of 2^64 + 5 whose upper bit would get lost.
  CHECK(fails(std::string("\x3a\x85\x80\x80\x80\x80\x80\x80\x80\x80\x02", 11) + "abcde"), "a wide length");
  std::string nested = whole();
  for (int i = 0; i < 60; ++i) nested = bytes(1, bytes(5, bytes(6, nested)));
  CHECK(fails(bytes(7, nested)), "graphs in graphs without end");
}

}  // namespace moe::tests
