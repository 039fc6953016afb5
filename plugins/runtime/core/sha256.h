// SHA-256 (FIPS 180-4), with the CPU's own instructions where it has them.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_CORE_SHA256_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_CORE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace moe::runtime {

class Sha256 {
 public:
  Sha256& update(const void* data, size_t bytes);
  // 64 lower-case hexadecimal digits of all that was given.  The last thing to ask.
  std::string digest();

 private:
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> waiting_{};
  size_t waits_ = 0;
  uint64_t bytes_ = 0;
};

inline std::string sha256(std::string_view bytes) {
  return Sha256().update(bytes.data(), bytes.size()).digest();
}

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_CORE_SHA256_H_
