// What a manifest says of MoE layers: nothing a run reads, and checked all the same.  The twins of
// moe_export/moe/layer.py, moe_export/moe/quantize.py and the records of moe_export/forms.py.
#include <algorithm>

#include "bundle/manifest.h"
#include "core/words.h"

namespace moe::runtime {

namespace {

using Texts = std::vector<std::string>;

const Texts kWeightFormats = {"f32", "bf16", "f16", "int8", "int4"};
const Texts kRowFormats = {"f32", "bf16", "int8", "int16"};

bool whole_rows(const std::string& rows) { return rows == "int8" || rows == "int16"; }
bool whole_weights(const std::string& format) { return format == "int8" || format == "int4"; }

const char* rows_of(const std::string& format) {
  return format == "bf16" ? "bf16" : format == "int8" ? "int16" : format == "int4" ? "int8" : "f32";
}

void check_router(const Field& field) {
  Members members(field);
  const int64_t experts = members.at("num_experts").integer();
  const int64_t top_k = members.at("top_k").integer();
  const std::string score =
      members.at("score").choice({"softmax", "sigmoid", "softmax_topk", "sigmoid_topk"});
  const int64_t groups = members.at("num_groups").integer();
  const int64_t topk_groups = members.at("topk_groups").integer();
  const std::string group_score = members.at("group_score").choice({"max", "top2_sum"});
  bool plain = score == "softmax" && groups == 1 && topk_groups == 1 && group_score == "max";
  for (const char* name : {"normalize", "has_correction_bias", "has_expert_scale"}) {
    plain = !members.at(name).boolean() && plain;
  }
  for (const char* name : {"normalize_eps", "normalize_min"}) {
    plain = members.at(name).number() == 0 && plain;
  }
  plain = members.at("routed_scaling").number() == 1 && plain;
  const std::string kept = members.at("kept").text();
  members.done();
  if (top_k < 1 || top_k > experts) members.refuse("top_k is not one of the experts' numbers");
  if (groups < 1 || experts % groups != 0) members.refuse("the experts do not form the groups");
  if (topk_groups < 1 || topk_groups > groups) members.refuse("topk_groups exceeds the groups");
  const int64_t group_size = experts / groups;
  // topk_groups * group_size is at most the number of experts.
  if (top_k > topk_groups * group_size) members.refuse("top_k exceeds the experts of the groups");
  if (groups > 1 && group_score == "top2_sum" && group_size < 2) {
    members.refuse("group_score 'top2_sum' needs groups of at least 2 experts");
  }
  if (!kept.empty() && !plain) {
    members.refuse("a router that is kept has no attributes of the Router op");
  }
}

void check_experts(const Field& field) {
  Members members(field);
  for (const char* name : {"num_experts", "hidden_size", "output_size", "block_size"}) {
    members.at(name).integer();
  }
  const int64_t intermediate = members.at("intermediate_size").integer();
  const std::string activation = members.at("activation")
                                     .choice({"silu", "gelu", "gelu_tanh", "relu", "relu2",
                                              "identity", "swiglu_clamped"});
  const bool gated = members.at("gated").boolean();
  members.at("gate_layout").choice({"concatenated", "interleaved"});
  members.at("weight_on").choice({"output", "input"});
  members.at("alpha").number();
  members.at("limit").number();
  const std::string format = members.at("weight_format").choice(kWeightFormats);
  const std::string rows = members.at("row_format").choice(kRowFormats);
  members.at("has_up_bias").boolean();
  members.at("has_down_bias").boolean();
  members.at("middle").text();
  members.done();
  if (whole_rows(rows) && !whole_weights(format)) {
    members.refuse("row_format " + in_quotes(rows) + " does not go with such weights");
  }
  if (intermediate == 0 && (gated || activation != "identity")) {
    members.refuse("a single linear layer per expert is not gated, and 'identity'");
  }
  if (activation == "swiglu_clamped" && !gated) {
    members.refuse("activation 'swiglu_clamped' needs a gate");
  }
}

void check_layer(const Field& field) {
  Members members(field);
  check_router(members.at("router"));
  check_experts(members.at("experts"));
  members.at("has_shared_path").boolean();
  members.at("shared_parameters").integer();
  members.done();
}

void check_proof(const Field& field) {
  Members members(field);
  members.at("cases").texts();
  members.at("tokens").integer();
  members.at("max_error").number();
  members.at("tolerance").number();
  members.at("experts_reached").integer();
  if (const auto shown = members.nullable("shown_on")) shown->text();
  if (const auto size = members.nullable("intermediate_size")) size->integer();
  members.done();
}

}  // namespace

void check_precision(const Field& field) {
  Members members(field);
  const std::string format = members.at("format").choice(kWeightFormats);
  const int64_t block = members.at("block_size").integer();
  const bool zeros = members.at("zeros").boolean();
  std::string rows;
  if (const auto given = members.nullable("rows")) rows = given->choice(kRowFormats);
  members.done();
  const bool sized = block == 32 || block == 64 || block == 128;
  const bool fits = format == "int4" ? sized : block == 0 || (format == "int8" && sized);
  if (!fits) members.refuse(format + " has no blocks of " + std::to_string(block));
  if (zeros && !whole_weights(format)) members.refuse(format + " has no zero points");
  if (rows != rows_of(format) && whole_rows(rows) && !whole_weights(format)) {
    members.refuse("rows of " + rows + " do not go with " + format + " weights");
  }
}

void check_block(const Field& field) {
  Members members(field);
  for (const char* name : {"path", "kind", "status", "found_by"}) members.at(name).text();
  if (const auto layer = members.nullable("layer")) check_layer(*layer);
  if (const auto proof = members.nullable("proof")) check_proof(*proof);
  if (const auto reason = members.nullable("reason")) reason->text();
  members.done();
}

}  // namespace moe::runtime
