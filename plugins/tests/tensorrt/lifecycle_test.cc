// usage: trt_lifecycle LIBRARY [ROUNDS]
//
// Drives every plugin of the library through its life many times, and refuses what must be refused.
// Under the address sanitizer nothing may leak, dangle or reach over an end.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>

#include "life.h"

namespace {

using namespace moe_trt_tests;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginFieldType;

// A node with memory of its own for what it points to.
class Sample {
 public:
  Sample(const char* op, const char* input_names) : node_{op, "layers.0", {}, {}, false} {
    attribute("input_names", input_names);
  }
  Sample& attribute(const char* name, const char* text) {
    texts_.emplace_back(text);
    return add(name, texts_.back().c_str(), PluginFieldType::kCHAR, texts_.back().size() + 1);
  }
  Sample& attribute(const char* name, int32_t number) {
    integers_.push_back(number);
    return add(name, &integers_.back(), PluginFieldType::kINT32, 1);
  }
  // Bytes of `numbers`, over and over; up to `most` tokens along axis 0.
  template <typename T>
  Sample& input(DataType type, std::initializer_list<int64_t> shape, std::vector<T> numbers,
                int64_t most = -1) {
    Dims dims{static_cast<int32_t>(shape.size()), {}};
    std::copy(shape.begin(), shape.end(), dims.d);
    Dims min = dims, max = dims;
    if (most >= 0) min.d[0] = 0, max.d[0] = most;
    std::vector<uint8_t> bytes(bytes_of(type, dims));
    for (size_t i = 0; i < bytes.size() && !numbers.empty(); i += sizeof(T)) {
      std::memcpy(&bytes[i], &numbers[i / sizeof(T) % numbers.size()], sizeof(T));
    }
    data_.push_back(std::move(bytes));
    node_.inputs.push_back({type, dims, min, max, data_.back().data()});
    return *this;
  }
  const Node& node() const { return node_; }
  Node& node() { return node_; }

 private:
  Sample& add(const char* name, const void* data, PluginFieldType type, size_t length) {
    node_.fields.emplace_back(name, data, type, static_cast<int32_t>(length));
    return *this;
  }

  std::deque<std::string> texts_;
  std::deque<int32_t> integers_;
  std::deque<std::vector<uint8_t>> data_;
  Node node_;
};

constexpr int64_t kMost = 9;

void add_samples(std::deque<Sample>* samples, int64_t tokens) {
  const std::vector<float> floats{0.5f, -1.25f, 2, 0.125f, -3};
  const std::vector<uint16_t> bf16{0x3f80, 0xbf00, 0x4000};  // 1, -0.5, 2
  const std::vector<uint8_t> packed{0x21, 0x7f, 0x93};
  const std::vector<int32_t> ids{0, 2, 1, -1, 2};

  samples->emplace_back("Router", "router_logits,correction_bias");
  samples->back().attribute("top_k", 2).attribute("score", "sigmoid").attribute("normalize", 1)
      .input(DataType::kFLOAT, {tokens, 3}, floats, kMost)
      .input(DataType::kFLOAT, {3}, floats);

  samples->emplace_back("Experts", "x,topk_ids,topk_weights,up,down,up_scales,down_scales");
  samples->back().attribute("weight_format", "int4").attribute("block_size", 32)
      .input(DataType::kBF16, {tokens, 34}, bf16, kMost)
      .input(DataType::kINT32, {tokens, 2}, ids, kMost)
      .input(DataType::kFLOAT, {tokens, 2}, floats, kMost)
      .input(DataType::kINT4, {3, 12, 34}, packed)
      .input(DataType::kINT4, {3, 5, 6}, packed)
      .input(DataType::kBF16, {3, 12, 2}, bf16)
      .input(DataType::kBF16, {3, 5, 1}, bf16);

  samples->emplace_back("Experts", "x,topk_ids,topk_weights,down,down_bias");
  samples->back().attribute("activation", "identity").attribute("gated", 0)
      .input(DataType::kFLOAT, {tokens, 7}, floats, kMost)
      .input(DataType::kINT32, {tokens, 2}, ids, kMost)
      .input(DataType::kFLOAT, {tokens, 2}, floats, kMost)
      .input(DataType::kFLOAT, {3, 5, 7}, floats)
      .input(DataType::kFLOAT, {3, 5}, floats);

  samples->emplace_back("Dispatch", "topk_ids");
  samples->back().attribute("num_experts", 3).input(DataType::kINT32, {tokens, 2}, ids, kMost);

  samples->emplace_back("GroupedMatMul", "x_sorted,expert_offsets,weights,bias");
  samples->back().attribute("weight_format", "bf16").attribute("row_format", "bf16")
      .input(DataType::kHALF, {2 * tokens, 6}, bf16, 2 * kMost)
      .input(DataType::kINT32, {4}, std::vector<int32_t>{0, static_cast<int32_t>(tokens)})
      .input(DataType::kBF16, {3, 5, 6}, bf16)
      .input(DataType::kFLOAT, {3, 5}, floats);

  samples->emplace_back("Combine", "y_sorted,order,topk_weights");
  samples->back().input(DataType::kFLOAT, {2 * tokens, 5}, floats, 2 * kMost)
      .input(DataType::kINT32, {2 * tokens}, std::vector<int32_t>{0}, 2 * kMost)
      .input(DataType::kFLOAT, {tokens, 2}, floats, kMost);
}

// A node that no plugin can be made of, or built with, must end in a code and not in a crash.
bool is_refused(const Library& library, const Node& node, Memory& memory) {
  try {
    live(library, node, memory);
  } catch (const Failure&) {
    return true;
  }
  return false;
}

// Contexts of several threads share nothing but what never changes.
int lives_side_by_side(const Library& library, int rounds) {
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int64_t tokens = 1; tokens <= 3; ++tokens) {
    threads.emplace_back([&, tokens] {
      const std::unique_ptr<Memory> memory = host_memory();
      for (int round = 0; round < rounds; ++round) {
        std::deque<Sample> samples;
        add_samples(&samples, tokens);
        for (const Sample& sample : samples) {
          if (is_refused(library, sample.node(), *memory)) ++failed;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (failed) std::printf("FAILED %d lives beside others\n", failed.load());
  return failed;
}

int refusals(const Library& library, Memory& memory) {
  int wrong = 0;
  const auto refuse = [&](const char* what, const auto& spoil) {
    std::deque<Sample> samples;
    add_samples(&samples, 4);
    Sample& experts = samples[1];
    spoil(experts);
    if (is_refused(library, experts.node(), memory)) return;
    std::printf("FAILED %s was not refused\n", what);
    ++wrong;
  };
  refuse("an unknown attribute", [](Sample& s) { s.attribute("colour", 1); });
  refuse("an attribute of another type", [](Sample& s) { s.attribute("activation", 1); });
  refuse("an unknown activation", [](Sample& s) { s.attribute("activation", "tanh"); });
  refuse("an unknown input", [](Sample& s) { s.attribute("input_names", "x,y"); });
  refuse("an input twice", [](Sample& s) { s.attribute("input_names", "x,x"); });
  refuse("no names at all", [](Sample& s) { s.attribute("input_names", ""); });
  refuse("a missing input", [](Sample& s) { s.node().inputs.pop_back(); });
  refuse("no inputs", [](Sample& s) { s.node().inputs.clear(); });
  refuse("panels", [](Sample& s) { s.attribute("weight_layout", "panels"); });
  refuse("rows of int8", [](Sample& s) { s.attribute("row_format", "int8"); });
  refuse("int64 ids", [](Sample& s) { s.node().inputs[1].type = DataType::kINT64; });
  refuse("a float for weights", [](Sample& s) { s.node().inputs[3].type = DataType::kFLOAT; });
  refuse("one axis too few", [](Sample& s) { s.node().inputs[0].dims.nbDims = 1; });
  refuse("tokens of another width", [](Sample& s) { s.node().inputs[0].dims.d[1] = 33; });
  refuse("fewer ids than tokens", [](Sample& s) { s.node().inputs[1].dims.d[0] = 3; });
  refuse("scales of another shape", [](Sample& s) { s.node().inputs[5].dims.d[2] = 1; });
  refuse("an odd number of columns", [](Sample& s) {
    s.node().inputs[4].dims.d[2] = s.node().inputs[4].max.d[2] = s.node().inputs[4].min.d[2] = 5;
  });
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: trt_lifecycle LIBRARY [ROUNDS]\n");
    return 2;
  }
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 50;
  try {
    const std::unique_ptr<Memory> memory = host_memory();
    int wrong = 0, lives = 0;
    {
      const Library library(argv[1]);
      for (int round = 0; round < rounds; ++round) {
        for (const int64_t tokens : {int64_t{4}, int64_t{0}, int64_t{1}, kMost}) {
          std::deque<Sample> samples;
          add_samples(&samples, tokens);
          for (const Sample& sample : samples) live(library, sample.node(), *memory), ++lives;
        }
      }
      wrong = refusals(library, *memory) + lives_side_by_side(library, rounds);
    }
    { const Library again(argv[1]); }  // opens once more after it was closed
    std::printf("%d lives, %d of them or beside them wrong\n", lives, wrong);
    return wrong != 0;
  } catch (const Failure& failure) {
    std::printf("FAILED %s\n", failure.text.c_str());
    return 1;
  }
}
