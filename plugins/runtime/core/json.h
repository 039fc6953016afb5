// JSON that means exactly one thing, read as strictly as moe_export/strict_json.py reads it.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_CORE_JSON_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_CORE_JSON_H_

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace moe::runtime {

using json = nlohmann::json;

constexpr int kMaxDepth = 16;

// The value in `bytes`.  Raises Error(unsafe) naming `where` for text that is not UTF-8 or not JSON,
// nests deeper than `max_depth`, holds a key twice, NaN, or a whole number beyond 64 bits.
json parse(std::string_view bytes, const std::string& where, int max_depth = kMaxDepth);

// A value at its place: `file` and `field` are what errors name.
class Field {
 public:
  Field(const json& value, std::string file, std::string field = "");

  // Each raises Error(unsafe) where the value is of another type.
  std::string text() const;
  int64_t integer() const;  // of 64 bits; true and 1.0 are none
  double number() const;    // a whole number counts, NaN and infinity do not
  bool boolean() const;
  bool null() const;
  // One of the texts given.
  std::string choice(const std::vector<std::string>& choices) const;
  std::vector<Field> list() const;
  std::map<std::string, Field> mapping() const;

  // `Field::text` and the like for each item.
  std::vector<std::string> texts() const;
  std::vector<int64_t> integers() const;
  std::vector<double> numbers() const;

  const json& value() const { return *value_; }
  [[noreturn]] void refuse(const std::string& what) const;

 private:
  friend class Members;
  void expect(bool holds, const char* what) const;
  const json* value_;
  std::string file_, field_;
};

// The members of an object, each asked for by its name once.
class Members {
 public:
  // Raises Error(unsafe) for a value that is no object.
  explicit Members(Field object);
  Members(const json& value, std::string file, std::string field = "")
      : Members(Field(value, std::move(file), std::move(field))) {}

  // Raises Error(unsafe) where it is missing.
  Field at(const char* name);
  // None where it is missing; a null is there.
  std::optional<Field> find(const char* name);
  // None where it is missing or null.
  std::optional<Field> given(const char* name);
  // None where it is null; missing is Error(unsafe).
  std::optional<Field> nullable(const char* name);
  // Raises Error(unsafe) for a member that nobody asked for.  The last thing to do.
  void done() const;
  // The first member that nobody asked for.
  std::optional<std::string> unknown() const;

  [[noreturn]] void refuse(const std::string& what) const { object_.refuse(what); }

 private:
  Field object_;
  std::set<std::string> known_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_CORE_JSON_H_
