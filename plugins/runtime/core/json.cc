#include "core/json.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/words.h"

namespace moe::runtime {

namespace {

struct Refused {
  std::string what;
};

// Builds a value as it hears of it, and refuses what a forgiving reader would let pass.
class Builder : public nlohmann::json_sax<json> {
 public:
  explicit Builder(int max_depth) : max_depth_(max_depth) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    // A whole number beyond 64 bits arrives here too.
    if (text.find_first_of(".eE") == string_t::npos) {
      throw Refused{"a number does not fit 64 bits"};
    }
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { throw Refused{"binary data"}; }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (open_.back()->contains(name)) throw Refused{"key " + in_quotes(name) + " occurs twice"};
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    throw Refused{"at byte " + std::to_string(position) + ": " + error.what()};
  }

  json take() { return std::move(root_); }

 private:
  json* place(json&& value) {
    if (open_.empty()) return &(root_ = std::move(value));
    json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool add(json&& value) {
    place(std::move(value));
    return true;
  }
  bool open(json&& value) {
    if (static_cast<int>(open_.size()) == max_depth_) {
      throw Refused{"nested deeper than " + std::to_string(max_depth_) + " levels"};
    }
    // A list may move its items when it grows, but never while one of them is open.
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  int max_depth_;
  json root_;
  std::vector<json*> open_;
  std::string key_;
};

const char* type_words(const json& value) {
  switch (value.type()) {
    case json::value_t::null: return "null";
    case json::value_t::boolean: return "true or false";
    case json::value_t::string: return "text";
    case json::value_t::array: return "a list";
    case json::value_t::object: return "an object";
    case json::value_t::number_float: return "a number";
    default: return "an integer";
  }
}

}  // namespace

json parse(std::string_view bytes, const std::string& where, int max_depth) {
  try {
    // The library skips a byte order mark and takes a zero byte for the end.
    if (bytes.find('\0') != std::string_view::npos) throw Refused{"a zero byte"};
    if (bytes.substr(0, 3) == "\xEF\xBB\xBF") throw Refused{"a byte order mark"};
    Builder builder(max_depth);
    json::sax_parse(bytes.begin(), bytes.end(), &builder);
    return builder.take();
  } catch (const Refused& refused) {
    throw Error(Kind::unsafe, "not acceptable JSON: " + printable(refused.what), where);
  }
}

Field::Field(const json& value, std::string file, std::string field)
    : value_(&value), file_(std::move(file)), field_(std::move(field)) {}

void Field::refuse(const std::string& what) const {
  const std::string where = field_.empty() ? file_ : file_ + ", field " + printable(field_);
  throw Error(Kind::unsafe, printable(what), where);
}

void Field::expect(bool holds, const char* what) const {
  if (!holds) refuse(std::string("expected ") + what + ", got " + type_words(*value_));
}

std::string Field::text() const {
  expect(value_->is_string(), "text");
  return value_->get<std::string>();
}

int64_t Field::integer() const {
  expect(value_->is_number_integer(), "an integer");
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const bool fits = value_->is_number_unsigned()
                        ? value_->get<uint64_t>() <= static_cast<uint64_t>(kMost)
                        : value_->get<int64_t>() >= -kMost;
  if (!fits) refuse("the number does not fit 64 bits");
  return value_->get<int64_t>();
}

double Field::number() const {
  if (value_->is_number_integer()) return static_cast<double>(integer());
  expect(value_->is_number_float(), "a number");
  const double number = value_->get<double>();
  if (!std::isfinite(number)) refuse("the number is not finite");
  return number;
}

bool Field::boolean() const {
  expect(value_->is_boolean(), "true or false");
  return value_->get<bool>();
}

bool Field::null() const { return value_->is_null(); }

std::string Field::choice(const std::vector<std::string>& choices) const {
  const std::string text = value_->is_string() ? value_->get<std::string>() : "";
  if (!value_->is_string() || std::find(choices.begin(), choices.end(), text) == choices.end()) {
    refuse("expected one of " + listed(choices) + ", got " +
           (value_->is_string() ? in_quotes(text) : type_words(*value_)));
  }
  return text;
}

std::vector<Field> Field::list() const {
  expect(value_->is_array(), "a list");
  std::vector<Field> made;
  made.reserve(value_->size());
  for (const json& item : *value_) {
    made.emplace_back(item, file_, field_ + "[" + std::to_string(made.size()) + "]");
  }
  return made;
}

std::map<std::string, Field> Field::mapping() const {
  expect(value_->is_object(), "an object");
  std::map<std::string, Field> made;
  for (const auto& [key, item] : value_->items()) {
    made.emplace(key, Field(item, file_, field_ + "." + key));
  }
  return made;
}

std::vector<std::string> Field::texts() const {
  std::vector<std::string> made;
  for (const Field& item : list()) made.push_back(item.text());
  return made;
}

std::vector<int64_t> Field::integers() const {
  std::vector<int64_t> made;
  for (const Field& item : list()) made.push_back(item.integer());
  return made;
}

std::vector<double> Field::numbers() const {
  std::vector<double> made;
  for (const Field& item : list()) made.push_back(item.number());
  return made;
}

Members::Members(Field object) : object_(std::move(object)) {
  object_.expect(object_.value_->is_object(), "an object");
}

std::optional<Field> Members::find(const char* name) {
  known_.insert(name);
  const auto found = object_.value_->find(name);
  if (found == object_.value_->end()) return std::nullopt;
  const std::string prefix = object_.field_.empty() ? "" : object_.field_ + ".";
  return Field(*found, object_.file_, prefix + name);
}

Field Members::at(const char* name) {
  std::optional<Field> found = find(name);
  if (!found) object_.refuse("key " + in_quotes(name) + " is missing");
  return *found;
}

std::optional<Field> Members::given(const char* name) {
  std::optional<Field> found = find(name);
  return found && found->null() ? std::nullopt : found;
}

std::optional<Field> Members::nullable(const char* name) {
  Field found = at(name);
  return found.null() ? std::nullopt : std::optional<Field>(found);
}

std::optional<std::string> Members::unknown() const {
  for (const auto& [key, item] : object_.value_->items()) {
    if (known_.count(key) == 0) return key;
  }
  return std::nullopt;
}

void Members::done() const {
  if (const auto name = unknown()) object_.refuse("unknown key " + in_quotes(*name));
}

}  // namespace moe::runtime
