// What goes wrong, as an exception, and what the other headers have in common.
#ifndef MOE_EXPORT_ERROR_HPP_
#define MOE_EXPORT_ERROR_HPP_

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "moe_export/moe_export.h"

namespace moe {

// Numbered as the exit codes of the program moe-export.
enum class Kind {
  internal = MOE_EXPORT_INTERNAL,
  usage = MOE_EXPORT_USAGE,
  unsupported = MOE_EXPORT_UNSUPPORTED,
  parity = MOE_EXPORT_PARITY,
  environment = MOE_EXPORT_ENVIRONMENT,
  memory = MOE_EXPORT_MEMORY,
  unsafe = MOE_EXPORT_UNSAFE,
};

// what() is all of it, as the program prints it; message(), where() and hint() are its parts.
class Error : public std::runtime_error {
 public:
  Error(Kind kind, std::string message, std::string where = "", std::string hint = "")
      : std::runtime_error(joined(message, where, hint)),
        kind_(kind),
        message_(std::move(message)),
        where_(std::move(where)),
        hint_(std::move(hint)) {}

  Kind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  const std::string& message() const { return message_; }
  const std::string& where() const { return where_; }
  const std::string& hint() const { return hint_; }

 private:
  static std::string joined(const std::string& message, const std::string& where,
                            const std::string& hint) {
    std::string text = message;
    if (!where.empty()) text += "\nat: " + where;
    if (!hint.empty()) text += "\nhint: " + hint;
    return text;
  }
  Kind kind_;
  std::string message_, where_, hint_;
};

namespace detail {

// Frees a handle of the C interface by the function of its name.
struct Free {
  void operator()(moe_export_bundle* made) const { moe_export_bundle_free(made); }
  void operator()(moe_export_session* made) const { moe_export_session_free(made); }
  void operator()(moe_export_tensor* made) const { moe_export_tensor_free(made); }
  void operator()(moe_export_generator* made) const { moe_export_generator_free(made); }
  void operator()(moe_export_answer* made) const { moe_export_answer_free(made); }
  void operator()(moe_export_cancellation* made) const { moe_export_cancellation_free(made); }
  void operator()(moe_export_error* made) const { moe_export_error_free(made); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

inline void check(moe_export_error* error) {
  if (error == nullptr) return;
  const Owned<moe_export_error> owned(error);
  throw Error(static_cast<Kind>(moe_export_error_kind(error)), moe_export_error_message(error),
              moe_export_error_where(error), moe_export_error_hint(error));
}

inline const char* or_null(const std::string& text) { return text.empty() ? nullptr : text.c_str(); }

// Refuses a library of another ABI than this header's, once.
inline void check_abi() {
  static const bool same = moe_export_abi_version() == MOE_EXPORT_ABI_VERSION;
  if (same) return;
  throw Error(Kind::environment,
              "libmoe_export has ABI " + std::to_string(moe_export_abi_version()) +
                  ", this program was compiled for " + std::to_string(MOE_EXPORT_ABI_VERSION),
              "libmoe_export", "install the library that the program was compiled with");
}

}  // namespace detail

}  // namespace moe

#endif  // MOE_EXPORT_ERROR_HPP_
