// tokenizer.json, and text for the tokenizer: the first line of what libFuzzer gives is text, the rest
// is the file.  Whatever they hold, reading and running them ends in ids, in text or in an Error.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "text/pieces.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

using moe::runtime::Error;
using moe::runtime::Tokenizer;

namespace {

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

void run(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int64_t> ids = tokenizer.encode(text);
  require(tokenizer.encode(text) == ids, "a text has one list of ids");
  require(moe::runtime::is_utf8(tokenizer.decode(ids, false)), "ids have text");
  moe::runtime::Pieces pieces(tokenizer);
  size_t pushed = 0;
  for (const int64_t id : ids) {
    pieces.push(id);
    if (++pushed == 64) break;  // each looks at all before it
  }
  pieces.finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const size_t line = all.find('\n');
  const std::string_view text = all.substr(0, line);
  const std::string_view file = line == std::string_view::npos ? "" : all.substr(line + 1);
  try {
    run(Tokenizer::from_json(file, "tokenizer.json"), text);
  } catch (const Error& error) {
    require(error.kind != moe::runtime::Kind::internal, error.what());
  }
  return 0;
}
