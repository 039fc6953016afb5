// The first NVIDIA GPU: its kind, its memory, and copies to and from it, by the driver's own functions; the
// twin of moe_export/engines/gpu.py and moe_export/runtime/device.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_SESSION_DEVICE_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_SESSION_DEVICE_H_

#include <cstddef>
#include <cstdint>

namespace moe::runtime {

// The compute capability of the first GPU, as 10 * major + minor.  Raises Error(environment) where there
// is no driver or no GPU.
int64_t sm_here();

// The first GPU, with the context that other libraries of this process use too.  Everything raises
// Error(environment) where the driver fails, and Error(memory) where the GPU has not enough.
class Device {
 public:
  Device();
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Makes its context that of this thread.
  void enter() const;
  void* stream() const { return stream_; }
  // Waits for all that was given to the stream.
  void synchronize() const;

 private:
  int number_ = 0;
  void* context_ = nullptr;
  void* stream_ = nullptr;
};

// Bytes on the GPU whose context this thread has.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  void* address() const { return reinterpret_cast<void*>(address_); }
  // As many bytes as it has.
  void write(const void* from);
  void read(void* to) const;

 private:
  uint64_t address_ = 0;
  size_t bytes_;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_SESSION_DEVICE_H_
