// Names as file systems compare them that ignore case: Unicode's full case folding.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_CASEFOLD_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_CASEFOLD_H_

#include <string>
#include <string_view>

namespace moe::runtime {

// `text`, which is UTF-8, as Python's str.casefold has it.
std::string casefolded(std::string_view text);

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_BUNDLE_CASEFOLD_H_
