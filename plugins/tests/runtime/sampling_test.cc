// tests/embed/sampling.json: drawing tokens and stop strings, as every runtime has them.
#include "generate/sampling.h"

#include <fstream>
#include <limits>
#include <sstream>

#include "../check.h"
#include "core/json.h"
#include "generate/stopping.h"
#include "refused.h"

namespace moe::tests {

namespace {

using runtime::json;
using runtime::Options;

const json& vectors() {
  static const json read = [] {
    std::ifstream file(MOE_EXPORT_SAMPLING);
    std::stringstream content;
    content << file.rdbuf();
    return runtime::parse(content.str(), MOE_EXPORT_SAMPLING);
  }();
  return read;
}

Options options_of(const json& given) {
  Options made;
  made.temperature = given.value("temperature", 0.0);
  made.top_k = given.value("top_k", int64_t{0});
  made.top_p = given.value("top_p", 1.0);
  made.repetition_penalty = given.value("repetition_penalty", 1.0);
  made.seed = given.value("seed", uint64_t{0});
  return made;
}

std::vector<float> row_of(const json& given) {
  std::vector<float> made;
  for (const json& each : given) {
    made.push_back(each.is_string() ? -std::numeric_limits<float>::infinity() : each.get<float>());
  }
  return made;
}

}  // namespace

TEST(uniform_numbers_are_those_of_the_vectors) {
  for (const json& each : vectors().at("uniform")) {
    const auto seed = each.at("seed").get<uint64_t>();
    for (size_t step = 0; step < each.at("u").size(); ++step) {
      const double made = runtime::uniform(seed, step);
      CHECK(made == each["u"][step].get<double>(), "seed %llu, step %zu: %.17g",
            static_cast<unsigned long long>(seed), step, made);
    }
  }
}

TEST(tokens_are_those_of_the_vectors) {
  for (const json& each : vectors().at("cases")) {
    const Options options = options_of(each.at("options"));
    std::unordered_set<int64_t> said;
    for (const json& id : each.at("prompt")) said.insert(id.get<int64_t>());
    for (size_t step = 0; step < each.at("ids").size(); ++step) {
      const std::vector<float> logits = row_of(each["logits"][step]);
      const int64_t token =
          runtime::next_token(logits.data(), logits.size(), options, said, step);
      CHECK(token == each["ids"][step].get<int64_t>(), "%s, step %zu: %lld",
            each["name"].get<std::string>().c_str(), step, static_cast<long long>(token));
      said.insert(token);
    }
  }
}

TEST(logits_that_are_no_numbers_are_refused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {1.0f, nan, 3.0f};
  for (const double temperature : {0.0, 1.0}) {
    Options options;
    options.temperature = temperature;
    CHECK(!refused([&] { runtime::next_token(logits.data(), 3, options, {}, 0); }).empty(),
          "a token was drawn at temperature %g", temperature);
  }
}

TEST(stop_strings_end_where_the_vectors_say) {
  for (const json& each : vectors().at("stops")) {
    runtime::StopStrings stops(each.at("stop").get<std::vector<std::string>>());
    std::vector<std::string> said;
    for (const json& piece : each.at("pieces")) {
      said.push_back(stops.push(piece.get<std::string>()));
      if (stops.found()) break;
    }
    if (!stops.found()) said.push_back(stops.finish());
    CHECK(json(said) == each.at("said"), "%s", json(said).dump().c_str());
    CHECK(stops.found() == each.at("stopped").get<bool>(), "%s", each.dump().c_str());
  }
}

TEST(options_that_make_no_sense_are_refused) {
  const auto wrong = [](auto change) {
    Options options;
    change(&options);
    return !refused([&] { options.check(); }).empty();
  };
  CHECK(wrong([](Options* o) { o->temperature = -1; }), "temperature");
  CHECK(wrong([](Options* o) { o->temperature = std::numeric_limits<double>::infinity(); }),
        "temperature");
  CHECK(wrong([](Options* o) { o->top_k = -1; }), "top_k");
  CHECK(wrong([](Options* o) { o->top_p = 1.5; }), "top_p");
  CHECK(wrong([](Options* o) { o->repetition_penalty = 0; }), "repetition_penalty");
  CHECK(wrong([](Options* o) { o->stop = {""}; }), "stop");
  CHECK(!wrong([](Options*) {}), "nothing is wrong");
}

}  // namespace moe::tests
