// A tokenizer as Hugging Face's `tokenizers` library saves it: tokenizer.json, read and run.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_TOKENIZER_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace moe::runtime {

// Gives the ids and the text that the library gives.  Copies share what was read, and any number of
// threads may use one.
class Tokenizer {
 public:
  // Raises Error(unsafe) naming `where` for bytes that are no tokenizer, Error(unsupported) naming
  // the part for one that holds what this reader does not do.
  static Tokenizer from_json(std::string_view bytes, const std::string& where);

  // The ids of `text`, with the tokens that the post-processor puts around it where `add_special`.
  // Raises Error(usage) for text that is not UTF-8, or too long for the tokenizer's patterns.
  std::vector<int64_t> encode(std::string_view text, bool add_special = true) const;

  // The text of `ids`; those that no token has are left out, and special ones where `skip_special`.
  // Bytes that are no letter are U+FFFD.
  std::string decode(const std::vector<int64_t>& ids, bool skip_special) const;

  std::optional<int64_t> token_to_id(std::string_view token) const;

 private:
  struct Parts;
  explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
  std::shared_ptr<const Parts> parts_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_TOKENIZER_H_
