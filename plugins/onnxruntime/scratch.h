// Memory that kernels work in, kept between runs so that no run pays for its page faults.
#ifndef MOE_EXPORT_PLUGINS_ONNXRUNTIME_SCRATCH_H_
#define MOE_EXPORT_PLUGINS_ONNXRUNTIME_SCRATCH_H_

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace moe_ort {

// Aligned bytes that belong to one owner.  Throws std::bad_alloc.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// A pool of buffers.  All kernels share one, since the layers of a model run one after the other:
// it holds as many as ever were in use at once, each as large as the largest need, and goes with
// the last kernel.
class Scratch {
 public:
  // A buffer on loan; it goes back when the lease ends.
  class Lease {
   public:
    Lease(Scratch* pool, Buffer buffer) : pool_(pool), buffer_(std::move(buffer)) {}
    Lease(Lease&& other) noexcept = default;
    ~Lease();
    void* data() const { return buffer_.data(); }

   private:
    Scratch* pool_;
    Buffer buffer_;
  };

  static std::shared_ptr<Scratch> shared();

  // At least `bytes`, 64-byte aligned, with whatever the last user left in them.
  Lease take(size_t bytes);

 private:
  void give_back(Buffer buffer);

  std::mutex mutex_;
  std::vector<Buffer> free_;
};

}  // namespace moe_ort

#endif  // MOE_EXPORT_PLUGINS_ONNXRUNTIME_SCRATCH_H_
