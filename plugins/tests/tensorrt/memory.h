// Device memory with guards around every block.
#ifndef MOE_EXPORT_PLUGINS_TESTS_TENSORRT_MEMORY_H_
#define MOE_EXPORT_PLUGINS_TESTS_TENSORRT_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace moe_trt_tests {

class Memory {
 public:
  virtual ~Memory() = default;
  // Addresses of device memory, a multiple of 256.
  virtual uint8_t* take(size_t bytes) = 0;
  virtual void give(uint8_t* address) = 0;
  virtual void write(uint8_t* to, const void* from, size_t bytes) = 0;
  virtual void read(void* to, const uint8_t* from, size_t bytes) = 0;
  virtual void* stream() = 0;
  virtual void wait() = 0;
  // Asks for nothing that was used before to be in the device's cache, as it is behind other layers.
  virtual void evict() {}
  // Whether the address sanitizer watches the ends of blocks: then guards would only hide them.
  virtual bool watched() const { return false; }
};

// The memory of this process: for a library whose kernels run on the host.
std::unique_ptr<Memory> host_memory();

// That of the first CUDA device, through the driver that this process finds as libcuda.so.1.
std::unique_ptr<Memory> driver_memory();

// A block that begins where TensorRT may let one begin: at a multiple of 128 that is none of 256, or
// `shift` bytes behind one.
class Block {
 public:
  Block(Memory& memory, size_t bytes, size_t shift = 0);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void* data() const { return base_ + offset_; }
  void write(const void* from);
  std::vector<uint8_t> read() const;
  // Whether the bytes around the block are as they were.
  bool whole() const;

 private:
  Memory& memory_;
  size_t offset_, bytes_, guard_;
  uint8_t* base_;
};

}  // namespace moe_trt_tests

#endif  // MOE_EXPORT_PLUGINS_TESTS_TENSORRT_MEMORY_H_
