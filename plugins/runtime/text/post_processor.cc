#include "text/post_processor.h"

#include "core/words.h"

namespace moe::runtime {

PostProcessor PostProcessor::read(const Field& value, const std::string& where) {
  Part part(value, "a post-processor", where);
  if (part.type() == "TemplateProcessing") return read_template(&part);
  if (part.type() == "Sequence") return read_sequence(&part);
  if (part.type() == "BertProcessing" || part.type() == "RobertaProcessing") {
    return read_ends(&part);
  }
  if (part.type() != "ByteLevel") part.unknown();
  // It says where tokens stood, which nobody asks here.
  for (const char* name : {"add_prefix_space", "trim_offsets", "use_regex"}) {
    part.boolean(name, true);
  }
  part.done();
  return PostProcessor();
}

PostProcessor PostProcessor::read_template(Part* part) {
  const std::map<std::string, Field> special = part->at("special_tokens").mapping();
  part->at("pair").list();  // of two texts, which nobody asks here
  std::vector<Piece> pieces;
  for (const Field& each : part->at("single").list()) {
    Members members(each);
    const auto sequence = members.find("Sequence"), token = members.find("SpecialToken");
    members.done();
    if (sequence.has_value() == token.has_value()) {
      each.refuse("expected Sequence or SpecialToken");
    }
    if (sequence) {
      Members text(*sequence);
      if (text.at("id").choice({"A", "B"}) != "A") each.refuse("one text has no second");
      pieces.push_back({true, {}});
      continue;
    }
    Members named(*token);
    const std::string name = named.at("id").text();
    const auto found = special.find(name);
    if (found == special.end()) each.refuse("no special token " + in_quotes(name));
    Members known(found->second);
    pieces.push_back({false, known.at("ids").integers()});
  }
  part->done();
  return PostProcessor(std::move(pieces));
}

PostProcessor PostProcessor::read_ends(Part* part) {
  const auto end_of = [&](const char* name) {
    const Field field = part->at(name);
    const std::vector<Field> pair = field.list();
    if (pair.size() != 2) field.refuse("expected a token and its id");
    pair[0].text();
    return std::vector<int64_t>{pair[1].integer()};
  };
  std::vector<Piece> pieces = {{false, end_of("cls")}, {true, {}}, {false, end_of("sep")}};
  part->boolean("trim_offsets", true);
  part->boolean("add_prefix_space", true);
  part->done();
  return PostProcessor(std::move(pieces));
}

PostProcessor PostProcessor::read_sequence(Part* part) {
  PostProcessor made;
  for (const Field& each : part->at("processors").list()) {
    PostProcessor next = read(each, part->where());
    if (next.adds_nothing()) continue;
    if (!made.adds_nothing()) part->unsupported("adds tokens twice");
    made = std::move(next);
  }
  part->done();
  return made;
}

std::vector<int64_t> PostProcessor::around(const std::vector<int64_t>& ids,
                                           bool add_special) const {
  std::vector<int64_t> made;
  for (const Piece& piece : pieces_) {
    if (!piece.is_text && !add_special) continue;
    const std::vector<int64_t>& from = piece.is_text ? ids : piece.ids;
    made.insert(made.end(), from.begin(), from.end());
  }
  return made;
}

}  // namespace moe::runtime
