#include "scratch.h"

#include <algorithm>
#include <new>
#include <utility>

#include "moe_kernels.h"

namespace moe_ort {

namespace {

// A cache line, and the widest vector.  From the size of a huge page on, buffers start at one and
// fill whole ones.
constexpr size_t kLine = 64, kHugePage = size_t{2} << 20;

std::align_val_t alignment(size_t bytes) {
  return std::align_val_t{bytes < kHugePage ? kLine : kHugePage};
}

}  // namespace

Buffer::Buffer(size_t bytes) {
  const size_t unit = bytes < kHugePage ? kLine : kHugePage;
  bytes_ = (bytes + unit - 1) / unit * unit;
  if (bytes_ < bytes) throw std::bad_alloc();
  if (bytes_ == 0) return;
  data_ = ::operator new(bytes_, alignment(bytes_));
  if (bytes_ >= kHugePage) moe::advise_huge_pages(data_, bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) ::operator delete(data_, alignment(bytes_));
}

Scratch::Lease::~Lease() {
  if (buffer_.data() != nullptr) pool_->give_back(std::move(buffer_));
}

std::shared_ptr<Scratch> Scratch::shared() {
  static std::mutex mutex;
  static std::weak_ptr<Scratch> pool;
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Scratch> found = pool.lock();
  if (!found) pool = found = std::make_shared<Scratch>();
  return found;
}

Scratch::Lease Scratch::take(size_t bytes) {
  if (bytes == 0) return {this, Buffer()};
  Buffer too_small;  // freed before its successor is made, and outside the lock
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto smallest_that_fits =
        std::find_if(free_.begin(), free_.end(),
                     [bytes](const Buffer& buffer) { return buffer.bytes() >= bytes; });
    if (smallest_that_fits != free_.end()) {
      Buffer buffer = std::move(*smallest_that_fits);
      free_.erase(smallest_that_fits);
      return {this, std::move(buffer)};
    }
    if (!free_.empty()) {
      too_small = std::move(free_.back());
      free_.pop_back();
    }
  }
  too_small = Buffer();
  return {this, Buffer(bytes)};
}

void Scratch::give_back(Buffer buffer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto place =
      std::find_if(free_.begin(), free_.end(),
                   [&](const Buffer& other) { return other.bytes() >= buffer.bytes(); });
  try {
    free_.insert(place, std::move(buffer));
  } catch (const std::bad_alloc&) {
    // No room for another entry of the list: the buffer is freed instead.
  }
}

}  // namespace moe_ort
