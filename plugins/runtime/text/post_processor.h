// The tokens that a tokenizer puts around those of a text.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_TEXT_POST_PROCESSOR_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_TEXT_POST_PROCESSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "text/part.h"

namespace moe::runtime {

class PostProcessor {
 public:
  // None.
  PostProcessor() : pieces_{{true, {}}} {}

  // Raises Error(unsafe) for what is none, Error(unsupported) for one that is not known.
  static PostProcessor read(const Field& value, const std::string& where);

  // The text's own tokens stand where the template has them, others only where `add_special`.
  std::vector<int64_t> around(const std::vector<int64_t>& ids, bool add_special) const;

 private:
  struct Piece {
    bool is_text;
    std::vector<int64_t> ids;
  };
  explicit PostProcessor(std::vector<Piece> pieces) : pieces_(std::move(pieces)) {}
  static PostProcessor read_template(Part* part);
  static PostProcessor read_ends(Part* part);
  static PostProcessor read_sequence(Part* part);
  bool adds_nothing() const { return pieces_.size() == 1 && pieces_[0].is_text; }

  std::vector<Piece> pieces_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_TEXT_POST_PROCESSOR_H_
