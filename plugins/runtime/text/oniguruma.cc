#include "text/oniguruma.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <vector>

#include "core/error.h"
#include "core/words.h"
#include "text/utf8.h"

namespace moe::runtime {

namespace {

// The members of a class.  PCRE2's own \s has U+180E, and its \w has no marks.
constexpr std::string_view kSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
constexpr std::string_view kNotSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";
constexpr std::string_view kWord =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"
    "\\x{1f170}-\\x{1f189}";
// Outside of a class Oniguruma counts powers and fractions of Latin-1 among the letters of words.
constexpr std::string_view kWordAlone = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
constexpr std::string_view kHex = "0-9A-Fa-f";

// General categories: one letter for a group of them, two for one.
constexpr std::string_view kCategories[] = {
    "C",  "Cc", "Cf", "Cn", "Co", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",  "Mc", "Me", "Mn",
    "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S",  "Sc", "Sk",
    "Sm", "So", "Z",  "Zl", "Zp", "Zs"};
// Scripts, by the names that both know.
constexpr std::string_view kScripts[] = {
    "Arabic", "Armenian", "Bengali",  "Bopomofo",   "Cyrillic", "Devanagari", "Georgian", "Greek",
    "Gujarati", "Gurmukhi", "Han",    "Hangul",     "Hebrew",   "Hiragana",   "Kannada",  "Katakana",
    "Khmer",  "Lao",      "Latin",    "Malayalam",  "Mongolian", "Myanmar",   "Oriya",    "Sinhala",
    "Tamil",  "Telugu",   "Thai",     "Tibetan"};

// ASCII letters which, one behind the other, another single letter may fold to.
constexpr std::string_view kFoldedPairs[] = {"ss", "ff", "fi", "fl", "st"};

bool is_any_of(std::string_view text, const std::string_view* begin, const std::string_view* end) {
  return std::find(begin, end, text) != end;
}

std::string code(char32_t letter) {
  char text[16];
  std::snprintf(text, sizeof text, "\\x{%x}", static_cast<unsigned>(letter));
  return text;
}

// Letters that mean something, as their numbers; the others as they are.
std::string literal(char32_t letter) {
  const bool plain = letter >= 0x80 || std::isalnum(static_cast<int>(letter));
  if (!plain) return code(letter);
  std::string made;
  append(letter, &made);
  return made;
}

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string all() {
    alternatives(false, 0);
    if (!done()) refuse("a closing bracket without its opening one");
    return std::move(made_);
  }

 private:
  // Far more than patterns need, and less than a stack holds.
  static constexpr int kMaxDepth = 100;

  bool done() const { return at_ >= pattern_.size(); }
  char peek() const { return done() ? '\0' : pattern_[at_]; }
  bool follows(std::string_view text) const {
    return pattern_.substr(at_, text.size()) == text;
  }
  bool take(std::string_view text) {
    if (!follows(text)) return false;
    at_ += text.size();
    return true;
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(Kind::unsupported,
                "the pattern " + in_quotes(pattern_) + " of a tokenizer holds " + what, where_);
  }
  [[noreturn]] void cut_short() const {
    throw Error(Kind::unsafe, "the pattern " + in_quotes(pattern_) + " of a tokenizer ends too early",
                where_);
  }

  char32_t letter() {
    if (done()) cut_short();
    return next_letter(pattern_, &at_);
  }

  // Up to the closing bracket or the end.
  void alternatives(bool caseless, int depth) {
    if (depth > kMaxDepth) refuse("groups nested too deep");
    caseless_ = caseless;
    last_ = 0;
    bool at_start = true;
    while (!done() && peek() != ')') {
      if (take("|")) {
        made_ += '|';
        last_ = 0;
        continue;
      }
      item(depth, at_start);
      at_start = false;
    }
  }

  void item(int depth, bool at_start) {
    const char32_t previous = last_;
    last_ = 0;
    if (peek() == '(') {
      if (group(depth, at_start)) return;  // options stand alone
    } else if (peek() == '[') {
      made_ += set(depth);
    } else if (take("\\")) {
      escape(previous);
    } else if (take(".")) {
      made_ += '.';
    } else if (take("^")) {
      made_ += '^';
    } else if (take("$")) {
      made_ += '$';
    } else {
      if (peek() == '*' || peek() == '+' || peek() == '?') refuse("a quantifier of nothing");
      put(letter(), previous);
    }
    quantifier();
  }

  // A letter that stands for itself.
  void put(char32_t letter, char32_t previous) {
    if (caseless_) {
      if (letter >= 0x80) refuse("letters beyond ASCII whose case is ignored");
      const char pair[2] = {static_cast<char>(std::tolower(static_cast<int>(previous))),
                            static_cast<char>(std::tolower(static_cast<int>(letter)))};
      if (is_any_of({pair, 2}, std::begin(kFoldedPairs), std::end(kFoldedPairs))) {
        refuse("letters whose case is ignored and that may be one letter");
      }
    }
    made_ += literal(letter);
    last_ = letter < 0x80 ? letter : 0;
  }

  // True for options that last to the end of the group around them.
  bool group(int depth, bool at_start) {
    ++at_;
    const bool outside = caseless_;
    bool inside = outside;
    if (!take("?")) {
      made_ += "(?:";
    } else if (take(":")) {
      made_ += "(?:";
    } else if (follows("=") || follows("!") || follows(">")) {
      made_ += "(?" + std::string(1, pattern_[at_++]);
    } else if (follows("<=") || follows("<!")) {
      made_ += "(?" + std::string(pattern_.substr(at_, 2));
      at_ += 2;
    } else if (take("i:")) {
      made_ += "(?i:";
      inside = true;
    } else if (take("-i:")) {
      made_ += "(?-i:";
      inside = false;
    } else if (take("i)")) {
      // Elsewhere the two do not agree on which alternatives it lasts for.
      if (!at_start) refuse("(?i) that does not stand first");
      made_ += "(?i)";
      caseless_ = true;
      return true;
    } else {
      refuse("the group (?" + std::string(pattern_.substr(at_, 1)));
    }
    alternatives(inside, depth + 1);
    if (!take(")")) cut_short();
    made_ += ')';
    caseless_ = outside;
    last_ = 0;
    return false;
  }

  void escape(char32_t previous) {
    const char32_t kind = letter();
    switch (kind) {
      case 's': made_ += '[' + std::string(kSpace) + ']'; return;
      case 'S': made_ += "[^" + std::string(kSpace) + ']'; return;
      case 'w': made_ += '[' + word() + ']'; return;
      case 'W': made_ += "[^" + word() + ']'; return;
      case 'h': made_ += '[' + std::string(kHex) + ']'; return;
      case 'd': made_ += "\\p{Nd}"; return;
      case 'D': made_ += "\\P{Nd}"; return;
      case 'A': made_ += "\\A"; return;
      case 'z': made_ += "\\z"; return;
      case 'Z': made_ += "\\Z"; return;
      case 'p':
      case 'P': made_ += property(kind == 'P'); return;
      case 'b': made_ += boundary(); return;
      default: put(escaped(kind), previous);
    }
  }

  static std::string word() { return std::string(kWord) + std::string(kWordAlone); }

  // Between a letter of a word and one that is none, or an end.
  static std::string boundary() {
    const std::string one = "[" + word() + "]";
    return "(?:(?<=" + one + ")(?!" + one + ")|(?<!" + one + ")(?=" + one + "))";
  }

  // The letter that an escape stands for.
  char32_t escaped(char32_t kind) {
    switch (kind) {
      case 'n': return '\n';
      case 'r': return '\r';
      case 't': return '\t';
      case 'f': return '\f';
      case 'v': return '\v';
      case 'a': return '\a';
      case 'e': return 0x1B;
      case 'u': return number(4, 4);
      case 'x': {
        if (!take("{")) {
          const char32_t value = number(1, 2);
          if (value >= 0x80) refuse("a byte by its number");
          return value;
        }
        const char32_t value = number(1, 6);
        if (!take("}")) refuse("\\x{ with more than a number");
        return value;
      }
      default: break;
    }
    if (kind < 0x80 && (std::isalnum(static_cast<int>(kind)))) {
      refuse("the escape \\" + std::string(1, static_cast<char>(kind)));
    }
    return kind;
  }

  char32_t number(size_t least, size_t most) {
    char32_t value = 0;
    size_t digits = 0;
    while (digits < most && std::isxdigit(static_cast<unsigned char>(peek()))) {
      const int digit = std::tolower(static_cast<unsigned char>(pattern_[at_++]));
      value = value * 16 + static_cast<char32_t>(digit <= '9' ? digit - '0' : digit - 'a' + 10);
      ++digits;
    }
    if (digits < least || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
      refuse("a number of no letter");
    }
    return value;
  }

  // Behind \p or \P: as PCRE2 has it, inside of a class or outside.
  std::string property(bool negated) {
    if (!take("{")) refuse("a property without its braces");
    if (take("^")) negated = !negated;
    const size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) cut_short();
    const std::string_view name = pattern_.substr(at_, end - at_);
    at_ = end + 1;
    const std::string begin = negated ? "\\P{" : "\\p{";
    if (is_any_of(name, std::begin(kCategories), std::end(kCategories))) {
      if (caseless_ && (name == "Lu" || name == "Ll" || name == "Lt")) {
        refuse("a case whose case is ignored");
      }
      return begin + std::string(name) + "}";
    }
    if (is_any_of(name, std::begin(kScripts), std::end(kScripts))) {
      return begin + "sc:" + std::string(name) + "}";
    }
    refuse("the property " + in_quotes(name));
  }

  // A class in brackets; with && it is those letters of the last part that are in all others.
  std::string set(int depth) {
    if (depth > kMaxDepth) refuse("classes nested too deep");
    ++at_;
    const bool negated = take("^");
    std::vector<std::string> parts;
    do {
      parts.push_back(part(depth));
    } while (take("&&"));
    if (!take("]")) cut_short();
    if (parts.size() == 1 && parts[0].size() > 2 && parts[0][0] == '[' && parts[0][1] != '^') {
      return negated ? "[^" + parts[0].substr(1) : parts[0];
    }
    std::string all = "(?:";
    for (size_t i = 0; i + 1 < parts.size(); ++i) all += "(?=" + parts[i] + ")";
    all += parts.back() + ")";
    return negated ? "(?:(?!" + all + ")(?s:.))" : all;
  }

  // Members up to && or the end, as an expression of one letter: [...], or a class within.
  std::string part(int depth) {
    if (peek() == '[' && !follows("[:")) {
      std::string inner = set(depth + 1);
      if (peek() != ']' && !follows("&&")) refuse("a class beside other members of a class");
      return inner;
    }
    std::string members;
    while (peek() != ']' && !follows("&&")) members += member();
    if (members.empty()) refuse("a class without members");
    return "[" + members + "]";
  }

  std::string member() {
    if (take("[:space:]")) return std::string(kSpace);
    if (take("[:digit:]")) return "\\p{Nd}";
    if (peek() == '[') refuse("a class beside other members of a class");
    char32_t first;
    if (take("\\")) {
      const char32_t kind = letter();
      switch (kind) {
        case 's': return std::string(kSpace);
        case 'S': return std::string(kNotSpace);
        case 'w': return std::string(kWord);
        case 'h': return std::string(kHex);
        case 'd': return "\\p{Nd}";
        case 'D': return "\\P{Nd}";
        case 'p':
        case 'P': return property(kind == 'P');
        case 'b': first = 0x08; break;
        default: first = escaped(kind);
      }
    } else {
      first = letter();
    }
    if (caseless_ && first >= 0x80) refuse("letters beyond ASCII whose case is ignored");
    // A hyphen at the end stands for itself.
    if (peek() != '-' || follows("-]") || follows("-&&")) return literal(first);
    ++at_;
    if (peek() == '[' || follows("\\p") || follows("\\s")) refuse("a range to a class");
    const char32_t last = take("\\") ? escaped(letter()) : letter();
    if (last < first) refuse("a range from behind");
    if (caseless_ && last >= 0x80) refuse("letters beyond ASCII whose case is ignored");
    return literal(first) + "-" + literal(last);
  }

  // Of the item before it, which is one letter, one class or one group for PCRE2 too.
  void quantifier() {
    const size_t start = at_;
    bool braces = false;
    std::string how;
    if (peek() == '*' || peek() == '+' || peek() == '?') {
      how = std::string(1, pattern_[at_++]);
    } else if (peek() == '{') {
      how = repeat();
      braces = !how.empty();
    }
    if (how.empty()) {
      at_ = start;
      return;
    }
    last_ = 0;
    const bool exact = braces && how.find(',') == std::string::npos;
    if (peek() == '?') {
      if (exact) refuse("a lazy quantifier of one number");
      how += pattern_[at_++];
    } else if (peek() == '+') {
      if (braces) refuse("a possessive quantifier in braces");
      how += pattern_[at_++];
    }
    if (peek() == '*' || peek() == '+' || peek() == '?') refuse("a quantifier of a quantifier");
    if (peek() == '{' && !is_literal_brace()) refuse("a quantifier of a quantifier");
    made_ += how;
  }

  bool is_literal_brace() {
    const size_t start = at_;
    const bool literal = repeat().empty();
    at_ = start;
    return literal;
  }

  // {n}, {n,}, {n,m} or {,m}; nothing where the brace stands for itself.
  std::string repeat() {
    const size_t start = at_;
    ++at_;
    const auto digits = [&] {
      std::string found;
      while (std::isdigit(static_cast<unsigned char>(peek()))) found += pattern_[at_++];
      return found;
    };
    const std::string least = digits();
    const bool comma = take(",");
    const std::string most = comma ? digits() : "";
    if (!take("}") || (least.empty() && most.empty())) {
      at_ = start;
      return "";
    }
    if (least.size() > 4 || most.size() > 4) refuse("a quantifier of a large number");
    return "{" + (least.empty() ? "0" : least) + (comma ? "," : "") + most + "}";
  }

  std::string_view pattern_;
  const std::string& where_;
  size_t at_ = 0;
  std::string made_;
  bool caseless_ = false;
  char32_t last_ = 0;  // the ASCII letter that stands last, if one does
};

}  // namespace

std::string pcre2_of(std::string_view pattern, const std::string& where) {
  return Translation(pattern, where).all();
}

std::string pcre2_of_literal(std::string_view text) {
  std::string made;
  for (size_t at = 0; at < text.size();) made += literal(next_letter(text, &at));
  return made;
}

}  // namespace moe::runtime
