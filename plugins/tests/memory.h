// Memory that ends where it was said to end, so that the address sanitizer sees one byte too many.
#ifndef MOE_EXPORT_PLUGINS_TESTS_MEMORY_H_
#define MOE_EXPORT_PLUGINS_TESTS_MEMORY_H_

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace moe::tests {

// `count` numbers in a block of their own, `offset` bytes behind a multiple of 64.  It begins filled
// with ones: floats are NaN, integers -1, so that what was never written shows.
template <class T>
class Block {
 public:
  Block() : Block(0) {}
  explicit Block(size_t count, size_t offset = 0) : count_(count), offset_(offset) {
    void* base = nullptr;
    if (posix_memalign(&base, 64, count * sizeof(T) + offset)) std::abort();
    base_ = static_cast<uint8_t*>(base);
    std::memset(base_, 0xff, count * sizeof(T) + offset);
  }
  Block(const std::vector<T>& from, size_t offset = 0) : Block(from.size(), offset) {
    for (size_t i = 0; i < count_; ++i) data()[i] = from[i];
  }
  Block(const Block& other) : Block(other.count_, other.offset_) {
    std::memcpy(base_, other.base_, count_ * sizeof(T) + offset_);
  }
  Block(Block&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        count_(std::exchange(other.count_, 0)),
        offset_(other.offset_) {}
  Block& operator=(const Block& other) { return *this = Block(other); }
  Block& operator=(Block&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(count_, other.count_);
    std::swap(offset_, other.offset_);
    return *this;
  }
  ~Block() { std::free(base_); }

  T* data() { return reinterpret_cast<T*>(base_ + offset_); }
  const T* data() const { return reinterpret_cast<const T*>(base_ + offset_); }
  T* begin() { return data(); }
  T* end() { return data() + count_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  // Null where there is nothing: how an optional input is left out.
  const T* or_null() const { return count_ ? data() : nullptr; }

 private:
  uint8_t* base_ = nullptr;
  size_t count_ = 0, offset_ = 0;
};

inline bool same_bits(const float* a, const float* b, size_t count) {
  return count == 0 || std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace moe::tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_MEMORY_H_
