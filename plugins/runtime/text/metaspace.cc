#include "text/metaspace.h"

#include "text/utf8.h"

namespace moe::runtime {

Metaspace Metaspace::read(Part* part) {
  Metaspace made;
  made.replacement = part->letter("replacement");
  if (const auto scheme = part->given("prepend_scheme")) {
    const std::string name = scheme->choice({"first", "never", "always"});
    made.prepend = name == "first"   ? Prepend::first
                   : name == "never" ? Prepend::never
                                     : Prepend::always;
  }
  // Older files say so in another way.
  if (!part->boolean("add_prefix_space", true)) {
    if (made.prepend != Prepend::never) {
      part->refuse("add_prefix_space does not match declared prepend_scheme");
    }
    made.prepend = Prepend::never;
  }
  made.split = part->boolean("split", true);
  part->text("str_rep", "");  // the replacement once more
  part->done();
  return made;
}

std::string Metaspace::replaced(const std::string& text, bool at_start) const {
  std::string mark;
  append(replacement, &mark);
  std::string made;
  for (const char byte : text) {
    if (byte == ' ') {
      made += mark;
    } else {
      made += byte;
    }
  }
  const bool wanted = prepend == Prepend::always || (prepend == Prepend::first && at_start);
  const bool is_there = made.compare(0, mark.size(), mark) == 0;
  return wanted && !is_there && !made.empty() ? mark + made : made;
}

std::string Metaspace::restored(const std::string& token, bool first) const {
  std::string made;
  for (size_t at = 0; at < token.size();) {
    const size_t begin = at;
    if (next_letter(token, &at) != replacement) {
      made.append(token, begin, at - begin);
    } else if (!first || prepend == Prepend::never) {
      made += ' ';
    }
  }
  return made;
}

}  // namespace moe::runtime
