#include "text/tokenizer.h"
#include "core/error.h"
namespace moe::runtime {
struct Tokenizer::Parts {};
Tokenizer Tokenizer::from_json(std::string_view, const std::string&) { throw Error(Kind::internal, "not yet"); }
std::vector<int64_t> Tokenizer::encode(std::string_view, bool) const { throw Error(Kind::internal, "not yet"); }
std::string Tokenizer::decode(const std::vector<int64_t>&, bool) const { throw Error(Kind::internal, "not yet"); }
std::optional<int64_t> Tokenizer::token_to_id(std::string_view) const { throw Error(Kind::internal, "not yet"); }
}
