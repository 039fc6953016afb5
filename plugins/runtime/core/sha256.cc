#include "core/sha256.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#define MOE_EXPORT_SHA_NI 1
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace moe::runtime {

namespace {

constexpr size_t kBlock = 64;

alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t rotated(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

void portable(uint32_t* state, const uint8_t* block, size_t blocks) {
  for (; blocks > 0; --blocks, block += kBlock) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      const uint8_t* at = block + 4 * i;
      w[i] = uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
    }
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t b = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    uint32_t s[8];
    std::copy(state, state + 8, s);
    for (int i = 0; i < 64; ++i) {
      const uint32_t upper = rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25);
      const uint32_t chosen = (s[4] & s[5]) ^ (~s[4] & s[6]);
      const uint32_t first = s[7] + upper + chosen + kRound[i] + w[i];
      const uint32_t lower = rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22);
      const uint32_t second = lower + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      std::copy_backward(s, s + 7, s + 8);
      s[4] += first;
      s[0] = first + second;
    }
    for (int i = 0; i < 8; ++i) state[i] += s[i];
  }
}

#if MOE_EXPORT_SHA_NI

// The instructions keep the state as (A, B, E, F) and (C, D, G, H), highest first.
__attribute__((target("sha,sse4.1"))) void sha_ni(uint32_t* state, const uint8_t* block,
                                                  size_t blocks) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  const __m128i dcba = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state));
  const __m128i hgfe = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4));
  const __m128i cdab = _mm_shuffle_epi32(dcba, 0xB1), efgh = _mm_shuffle_epi32(hgfe, 0x1B);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
  for (; blocks > 0; --blocks, block += kBlock) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) {
      const auto* at = reinterpret_cast<const __m128i*>(block + 16 * i);
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(at), big_endian);
    }
    for (int four = 0; four < 16; ++four) {
      const __m128i now = w[four % 4];
      const auto* at = reinterpret_cast<const __m128i*>(kRound + 4 * four);
      const __m128i keyed = _mm_add_epi32(now, _mm_load_si128(at));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, keyed);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(keyed, 0x0E));
      // The words of four steps later: from 16, 15, 7 and 2 words before.
      const __m128i next = w[(four + 1) % 4], third = w[(four + 2) % 4], last = w[(four + 3) % 4];
      const __m128i seven = _mm_alignr_epi8(last, third, 4);
      const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(now, next), seven);
      w[four % 4] = _mm_sha256msg2_epu32(sum, last);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

bool has_sha_ni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 19)) return false;  // SSE4.1
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
}

#endif

using Blocks = void (*)(uint32_t*, const uint8_t*, size_t);

Blocks best() {
#if MOE_EXPORT_SHA_NI
  if (has_sha_ni()) return sha_ni;
#endif
  return portable;
}

void take(uint32_t* state, const uint8_t* block, size_t blocks) {
  static const Blocks kBest = best();
  kBest(state, block, blocks);
}

}  // namespace

Sha256& Sha256::update(const void* data, size_t bytes) {
  const auto* at = static_cast<const uint8_t*>(data);
  bytes_ += bytes;
  if (waits_ > 0) {
    const size_t taken = std::min(bytes, kBlock - waits_);
    std::memcpy(waiting_.data() + waits_, at, taken);
    waits_ += taken;
    at += taken;
    bytes -= taken;
    if (waits_ < kBlock) return *this;
    take(state_.data(), waiting_.data(), 1);
    waits_ = 0;
  }
  take(state_.data(), at, bytes / kBlock);
  waits_ = bytes % kBlock;
  if (waits_ > 0) std::memcpy(waiting_.data(), at + (bytes - waits_), waits_);
  return *this;
}

std::string Sha256::digest() {
  const uint64_t bits = bytes_ * 8;
  uint8_t end[2 * kBlock] = {0x80};
  const size_t length = (waits_ < 56 ? 56 : 56 + kBlock) - waits_;
  for (int i = 0; i < 8; ++i) end[length + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  update(end, length + 8);
  std::string text;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }
  return text;
}

}  // namespace moe::runtime
