// A program over the public headers that does what lines of JSON on its standard input tell it, and says
// in a line of JSON on its standard output what came of each.  tests/embed/driver.py writes them.
#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "moe_export/moe_export.hpp"

namespace {

using nlohmann::json;

const std::map<std::string, moe_export_dtype> kDtypes = {
    {"float32", MOE_EXPORT_FLOAT32}, {"float64", MOE_EXPORT_FLOAT64}, {"float16", MOE_EXPORT_FLOAT16},
    {"int64", MOE_EXPORT_INT64},     {"int32", MOE_EXPORT_INT32},     {"int16", MOE_EXPORT_INT16},
    {"int8", MOE_EXPORT_INT8},       {"uint8", MOE_EXPORT_UINT8},     {"uint16", MOE_EXPORT_UINT16},
    {"uint32", MOE_EXPORT_UINT32},   {"uint64", MOE_EXPORT_UINT64},   {"bool", MOE_EXPORT_BOOL},
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// Bytes of this process that are in memory, after what the allocator keeps was given back.
int64_t resident() {
  ::malloc_trim(0);
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  file >> pages >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

struct State {
  std::unique_ptr<moe::Bundle> bundle;
  std::unique_ptr<moe::Session> session;
  std::unique_ptr<moe::Generator> generator;
};

json ports(const std::vector<moe::Port>& given) {
  json made = json::array();
  for (const moe::Port& port : given) {
    made.push_back({{"name", port.name}, {"dtype", port.dtype}, {"sizes", port.sizes},
                    {"names", port.size_names}});
  }
  return made;
}

json open(State* state, const json& said) {
  state->bundle = std::make_unique<moe::Bundle>(
      moe::Bundle::open(said.at("path").get<std::string>(), said.value("verify", true)));
  return {{"path", state->bundle->path()}, {"target", state->bundle->target()},
          {"digest", state->bundle->digest()}, {"components", state->bundle->components()}};
}

json session(State* state, const json& said) {
  moe::Runtime runtime;
  runtime.threads = said.value("threads", 1);
  runtime.onnxruntime = said.value("onnxruntime", "");
  runtime.kernels = said.value("kernels", "");
  state->session = std::make_unique<moe::Session>(*state->bundle, said.value("component", "model"),
                                                  runtime, said.value("graph", "main"));
  return {{"inputs", ports(state->session->inputs())},
          {"outputs", ports(state->session->outputs())}};
}

// Each of so many threads runs `repeat` times; throws where an output was not that of a run alone.
void runs_beside(int count, int repeat, const moe::Session& session,
                 const std::map<std::string, moe::Input>& inputs) {
  if (count == 0) return;
  const auto alone = session.run(inputs);
  std::atomic<int> differing{0};
  const auto work = [&] {
    for (int i = 0; i < repeat; ++i) {
      try {
        for (const auto& [name, tensor] : session.run(inputs)) {
          const moe::Tensor& expected = alone.at(name);
          if (tensor.bytes() != expected.bytes() ||
              std::memcmp(tensor.data(), expected.data(), tensor.bytes()) != 0) {
            ++differing;
          }
        }
      } catch (const moe::Error&) {
        ++differing;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  if (differing > 0) throw std::runtime_error(std::to_string(differing) + " outputs differ");
}

// Runs `repeat` times over the same inputs, on each of some `threads` more; the outputs of the last go to
// a file, one after the other.
json run(State* state, const json& said) {
  std::vector<std::string> contents;
  for (const json& each : said.at("inputs")) contents.push_back(read_file(each.at("file")));
  std::map<std::string, moe::Input> inputs;
  for (size_t i = 0; i < contents.size(); ++i) {
    const json& each = said["inputs"][i];
    inputs[each.at("name")] = {kDtypes.at(each.at("dtype")),
                               each.at("shape").get<std::vector<int64_t>>(), contents[i].data(),
                               contents[i].size()};
  }
  const auto outputs = said.value("outputs", std::vector<std::string>{});
  const int repeat = said.value("repeat", 1);
  const int64_t before = resident();
  std::vector<int64_t> sizes;
  for (int i = 1; i < repeat; ++i) {
    state->session->run(inputs, outputs);
    if (i % (repeat / 10 + 1) == 0) sizes.push_back(resident());
  }
  runs_beside(said.value("threads", 0), repeat, *state->session, inputs);
  const auto tensors = state->session->run(inputs, outputs);
  std::ofstream out(said.at("out").get<std::string>(), std::ios::binary);
  json made = json::array();
  for (const auto& [name, tensor] : tensors) {
    out.write(static_cast<const char*>(tensor.data()), static_cast<std::streamsize>(tensor.bytes()));
    made.push_back({{"name", name}, {"dtype", tensor.dtype()}, {"shape", tensor.shape()},
                    {"bytes", tensor.bytes()}});
  }
  return {{"outputs", made}, {"before", before}, {"sizes", sizes}};
}

json generator(State* state, const json& said) {
  moe::GeneratorOptions options;
  options.threads = said.value("threads", 1);
  options.onnxruntime = said.value("onnxruntime", "");
  options.kernels = said.value("kernels", "");
  options.max_cache_tokens = said.value("max_cache_tokens", int64_t{0});
  options.reuse_prefix = said.value("reuse_prefix", true);
  options.max_image_bytes = said.value("max_image_bytes", int64_t{0});
  state->generator = std::make_unique<moe::Generator>(*state->bundle, options);
  return json::object();
}

moe::Options options_of(const json& said) {
  moe::Options made;
  made.max_new_tokens = said.value("max_new_tokens", int64_t{0});
  made.temperature = said.value("temperature", 0.0);
  made.top_k = said.value("top_k", int64_t{0});
  made.top_p = said.value("top_p", 1.0);
  made.repetition_penalty = said.value("repetition_penalty", 1.0);
  made.seed = said.value("seed", uint64_t{0});
  made.stop = said.value("stop", std::vector<std::string>{});
  return made;
}

// A request, and the pieces in which its answer was heard.
struct Asking {
  moe::Request request;
  std::vector<std::string> pieces;
  std::string content;  // of an encoded image
};

std::unique_ptr<Asking> asking(const json& said) {
  auto made = std::make_unique<Asking>();
  made->request.prompt = said.value("prompt", "");
  made->request.ids = said.value("ids", std::vector<int64_t>{});
  made->request.options = options_of(said.value("options", json::object()));
  for (const json& path : said.value("images", json::array())) {
    made->request.images.push_back(moe::Image::file(path));
  }
  if (said.contains("encoded")) {
    made->content = read_file(said["encoded"]);
    made->request.images.push_back(moe::Image::encoded(made->content));
  }
  const int64_t most = said.value("pieces", int64_t{-1});
  made->request.listener = [asking = made.get(), most](std::string_view piece) {
    asking->pieces.emplace_back(piece);
    if (most == 0) throw std::runtime_error("the listener is unwell");
    return static_cast<int64_t>(asking->pieces.size()) != most;
  };
  return made;
}

json told(const moe::Answer& answer, const std::vector<std::string>& pieces) {
  return {{"ids", answer.ids},       {"text", answer.text},
          {"finish", answer.finish}, {"prompt_tokens", answer.prompt_tokens},
          {"pieces", pieces},        {"reused_tokens", answer.reused_tokens}};
}

json generate(State* state, const json& said) {
  if (!state->generator) throw std::runtime_error("there is no generator");
  std::vector<std::unique_ptr<Asking>> asked;
  std::vector<moe::Request> requests;
  moe::Cancellation cancellation;
  for (const json& each : said.at("requests")) {
    asked.push_back(asking(each));
    requests.push_back(asked.back()->request);
    if (said.contains("cancel_after_ms")) requests.back().options.cancellation = &cancellation;
  }
  std::thread canceller;
  if (said.contains("cancel_after_ms")) {
    canceller = std::thread([&, wait = said["cancel_after_ms"].get<int>()] {
      std::this_thread::sleep_for(std::chrono::milliseconds(wait));
      cancellation.cancel();
    });
  }
  std::vector<moe::Answer> answers;
  std::exception_ptr thrown;
  try {
    answers = state->generator->generate_batch(requests);
  } catch (...) {
    thrown = std::current_exception();
  }
  if (canceller.joinable()) canceller.join();
  if (thrown) std::rethrow_exception(thrown);
  json made = json::array();
  for (size_t i = 0; i < answers.size(); ++i) made.push_back(told(answers[i], asked[i]->pieces));
  return {{"answers", made}};
}

// Each of `threads` asks every request `rounds` times, beginning at another; how many answers were not
// those that the requests have alone.
json threads(State* state, const json& said) {
  std::vector<moe::Request> requests;
  std::vector<moe::Answer> alone;
  for (const json& each : said.at("requests")) {
    moe::Request request = asking(each)->request;
    request.listener = nullptr;
    requests.push_back(request);
    alone.push_back(std::move(state->generator->generate_batch({request}).front()));
  }
  std::atomic<int64_t> asked{0}, differing{0};
  std::mutex mutex;
  std::string trouble;
  const auto work = [&](size_t first) {
    try {
      for (int64_t i = 0; i < said.at("rounds").get<int64_t>(); ++i) {
        const size_t at = (first + static_cast<size_t>(i)) % requests.size();
        const moe::Answer answer = state->generator->generate_batch({requests[at]}).front();
        ++asked;
        if (answer.ids != alone[at].ids || answer.text != alone[at].text) ++differing;
      }
    } catch (const std::exception& error) {
      const std::lock_guard<std::mutex> lock(mutex);
      trouble = error.what();
    }
  };
  std::vector<std::thread> workers;
  for (size_t i = 0; i < said.at("threads").get<size_t>(); ++i) workers.emplace_back(work, i);
  for (std::thread& worker : workers) worker.join();
  return {{"asked", asked.load()}, {"differing", differing.load()}, {"trouble", trouble}};
}

// Asks the same again and again, and says how much memory that took.
json soak(State* state, const json& said) {
  moe::Request request = asking(said.at("request"))->request;
  request.listener = nullptr;  // its listener goes with what it was made of
  const int64_t rounds = said.at("rounds").get<int64_t>();
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < rounds; ++i) {
    state->generator->generate_batch({request});
    if (i % (rounds / 20 + 1) == 0) sizes.push_back(resident());
  }
  sizes.push_back(resident());
  return {{"sizes", sizes}};
}

json done(State* state, const json& said) {
  const std::string what = said.at("do");
  if (what == "open") return open(state, said);
  if (what == "session") return session(state, said);
  if (what == "run") return run(state, said);
  if (what == "generator") return generator(state, said);
  if (what == "generate") return generate(state, said);
  if (what == "threads") return threads(state, said);
  if (what == "soak") return soak(state, said);
  throw std::runtime_error("nothing is called " + what);
}

json failed(const std::string& message, int kind, const std::string& where, const std::string& hint) {
  return {{"error", {{"kind", kind}, {"message", message}, {"where", where}, {"hint", hint}}}};
}

}  // namespace

int main() {
  State state;
  for (std::string line; std::getline(std::cin, line);) {
    json answer;
    try {
      answer = done(&state, json::parse(line));
    } catch (const moe::Error& error) {
      answer = failed(error.message(), error.exit_code(), error.where(), error.hint());
    } catch (const std::exception& error) {
      answer = failed(error.what(), 0, "", "");
    }
    std::cout << answer.dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
  }
}
