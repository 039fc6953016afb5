// What a user can do wrong, inside the library; the C ABI hands it out as a moe_export_error.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_CORE_ERROR_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_CORE_ERROR_H_

#include <stdexcept>
#include <string>
#include <utility>

namespace moe::runtime {

// Numbered as the exit codes of the command line, one for each exception of moe_export/errors.py.
enum class Kind {
  internal = 1,
  usage = 2,
  unsupported = 3,
  parity = 4,
  environment = 5,
  memory = 6,
  unsafe = 7,
};

// what(): what is wrong.  `where` names the place in the user's words, `hint` says what to do next;
// both may be empty.
struct Error : std::runtime_error {
  Error(Kind of, const std::string& what, std::string place = "", std::string advice = "")
      : std::runtime_error(what), kind(of), where(std::move(place)), hint(std::move(advice)) {}
  Kind kind;
  std::string where, hint;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_CORE_ERROR_H_
