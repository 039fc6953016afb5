#include "../probe.h"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPage = size_t{2} << 20;
// Sixteen times the 32 MiB of a large core complex: at most 6 % of a pass can come from a cache.
constexpr size_t kBytes = size_t{512} << 20;
// What a thread takes at a time: 0.1 ms to 1 ms, so that a thread that was interrupted holds the
// others up for no longer than that, and a chunk's first misses do not show.
constexpr size_t kChunk = size_t{4} << 20;
constexpr size_t kChunks = kBytes / kChunk;

uint64_t* allocate() {
  void* memory = std::aligned_alloc(kPage, kBytes);
  if (memory == nullptr) return nullptr;
#if defined(__linux__)
  madvise(memory, kBytes, MADV_HUGEPAGE);
#endif
  auto* words = static_cast<uint64_t*>(memory);
  for (size_t i = 0; i < kBytes / sizeof(uint64_t); ++i) words[i] = i;
  return words;
}

// Four streams with an accumulator each.  One alone gets 20 of the 27 GB/s that a Zen 3 core can
// read, two get 25, and eight no more than four.
uint64_t read_chunk(const uint64_t* __restrict words) {
  constexpr size_t kStream = kChunk / sizeof(uint64_t) / 4;
  const uint64_t* __restrict b = words + kStream;
  const uint64_t* __restrict c = b + kStream;
  const uint64_t* __restrict d = c + kStream;
  uint64_t sums[4] = {};
  for (size_t i = 0; i < kStream; i += 8) {  // a word of each 64-byte line: the line is what moves
    sums[0] += words[i];
    sums[1] += b[i];
    sums[2] += c[i];
    sums[3] += d[i];
  }
  return sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
}

struct Sample {
  const uint64_t* words;
  Clock::time_point end;
  std::atomic<size_t> taken{0};
  std::atomic<size_t> read{0};
  std::atomic<uint64_t> sum{0};  // shared, so that no compiler leaves the reads out
};

// Until the time is over and each chunk was read once.
void read_on(Sample* sample) {
  uint64_t sum = 0;
  for (;;) {
    const size_t chunk = sample->taken.fetch_add(1, std::memory_order_relaxed);
    if (chunk >= kChunks && Clock::now() >= sample->end) break;
    sum += read_chunk(sample->words + chunk % kChunks * (kChunk / sizeof(uint64_t)));
    sample->read.fetch_add(1, std::memory_order_relaxed);
  }
  sample->sum.fetch_add(sum, std::memory_order_relaxed);
}

}  // namespace

double moe_export_read_bandwidth(int threads, double seconds) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  static const uint64_t* const words = allocate();
  if (words == nullptr || threads < 1 || threads > 64 || !(seconds >= 0 && seconds < 3600)) return 0;
  const auto begin = Clock::now();
  Sample sample{words, begin + std::chrono::duration_cast<Clock::duration>(
                                   std::chrono::duration<double>(seconds))};
  std::vector<std::thread> others;
  bool whole = true;
  try {
    for (int i = 1; i < threads; ++i) others.emplace_back(read_on, &sample);
  } catch (const std::system_error&) {
    whole = false;
  } catch (const std::bad_alloc&) {
    whole = false;
  }
  read_on(&sample);
  for (std::thread& other : others) other.join();
  const std::chrono::duration<double> spent = Clock::now() - begin;
  return whole ? static_cast<double>(sample.read.load() * kChunk) / spent.count() : 0;
}
