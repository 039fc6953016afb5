#include "generate/generator.h"

#include <algorithm>

#include "generate/cached.h"
#include "generate/one_graph.h"

namespace moe::runtime {

namespace {

std::unique_ptr<Speaker> speaker_of(std::shared_ptr<const Bundle> bundle,
                                    const GeneratorOptions& options) {
  const auto& assets = bundle->manifest().assets;
  if (std::find(assets.begin(), assets.end(), "dialogue.json") != assets.end()) {
    return std::make_unique<Cached>(std::move(bundle), options);
  }
  return std::make_unique<OneGraph>(std::move(bundle), options);
}

// A row that has not ended yet.
struct UnderWay {
  const Request* request;
  Speech* speech;
  size_t row;  // in the decoding
};

bool is_cancelled(const UnderWay& each) {
  return each.request->stop != nullptr && each.request->stop->asked();
}

// What ends the run that all of them share, if they have it in common.
const Stop* common(const std::vector<UnderWay>& rows) {
  const Stop* stop = rows.front().request->stop;
  const bool alike = std::all_of(rows.begin(), rows.end(), [&](const UnderWay& each) {
    return each.request->stop == stop;
  });
  return alike ? stop : nullptr;
}

void take(const UnderWay& each, const Logits& logits) {
  if (is_cancelled(each)) return each.speech->cancel();
  const Speech::Said said = each.speech->take(logits.row(each.row), logits.vocabulary);
  if (!each.request->listener || (said.token < 0 && said.text.empty())) return;
  if (!each.request->listener(said.token, said.text)) each.speech->cancel();
}

// Goes on with those that have not ended; false where there are none.
bool follow(Decoding* decoding, std::vector<UnderWay>* rows) {
  std::vector<size_t> kept;
  std::vector<int64_t> tokens;
  std::vector<UnderWay> going_on;
  for (const UnderWay& each : *rows) {
    if (each.speech->finish() != Finish::none) continue;
    going_on.push_back({each.request, each.speech, kept.size()});
    kept.push_back(each.row);
    tokens.push_back(each.speech->ids().back());
  }
  *rows = std::move(going_on);
  if (rows->empty()) return false;
  decoding->follow(kept, tokens);
  return true;
}

}  // namespace

std::string asset_of(const Bundle& bundle, const char* name) {
  auto content = bundle.asset(name);
  if (content) return std::move(*content);
  throw Error(Kind::usage,
              std::string("the bundle has no ") + name + ", so it cannot answer in text",
              bundle.path(), "run it on arrays with a session, or export with the model's assets");
}

Generator::Generator(std::shared_ptr<const Bundle> bundle, const GeneratorOptions& options)
    : speaker_(speaker_of(std::move(bundle), options)) {}

std::vector<Answer> Generator::answer(const std::vector<Request>& requests, size_t batch_size) {
  if (batch_size < 1) throw Error(Kind::usage, "batch_size must be 1 or more, got 0");
  std::vector<Ready> ready;
  for (const Request& request : requests) {
    request.options.check();
    ready.push_back(speaker_->ready(request.asked));
  }
  std::vector<Answer> made;
  for (size_t start = 0; start < requests.size(); start += batch_size) {
    const size_t end = std::min(start + batch_size, requests.size());
    std::vector<Ready> some(std::make_move_iterator(ready.begin() + static_cast<int64_t>(start)),
                            std::make_move_iterator(ready.begin() + static_cast<int64_t>(end)));
    for (Answer& each : together(&requests[start], std::move(some))) {
      made.push_back(std::move(each));
    }
  }
  return made;
}

std::vector<Answer> Generator::together(const Request* requests, std::vector<Ready> ready) {
  const size_t count = ready.size();
  std::vector<Answer> answers(count);
  std::vector<Speech> speeches;
  for (size_t i = 0; i < count; ++i) {
    const auto tokens = static_cast<int64_t>(ready[i].ids.size());
    const int64_t wanted = requests[i].options.max_new_tokens;
    const int64_t limit = wanted > 0 ? wanted : speaker_->max_new_tokens;
    speeches.emplace_back(speaker_->tokenizer(), requests[i].options, ready[i].ids,
                          std::min(limit, speaker_->max_length - tokens), speaker_->ends);
    answers[i].prompt_tokens = ready[i].ids.size();
  }
  std::vector<UnderWay> rows;
  for (size_t i = 0; i < count; ++i) rows.push_back({&requests[i], &speeches[i], i});
  if (std::all_of(rows.begin(), rows.end(), is_cancelled)) {
    for (Speech& speech : speeches) speech.cancel();
    rows.clear();
  }
  const auto decoding = speaker_->begin(std::move(ready));
  try {
    for (bool going_on = !rows.empty(); going_on; going_on = follow(decoding.get(), &rows)) {
      const Logits logits = decoding->logits(common(rows));
      for (const UnderWay& each : rows) take(each, logits);
    }
  } catch (const Stopped&) {
    for (const UnderWay& each : rows) each.speech->cancel();
  }
  for (size_t i = 0; i < count; ++i) {
    answers[i].ids = speeches[i].ids();
    answers[i].text = speeches[i].text();
    answers[i].finish = speeches[i].finish();
    answers[i].reused_tokens = decoding->reused(i);
  }
  return answers;
}

}  // namespace moe::runtime
