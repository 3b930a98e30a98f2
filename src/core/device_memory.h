#pragma once

#include <cstdint>
#include <string>

#include "core/device.h"

namespace deeptitan {

/// Whose memory: the device's own (on the CPU: the host's), the host's, or the host's pinned for copies to and from the
/// device (on the CPU: the host's).
enum class MemoryKind { kDevice, kHost, kPinned };

/// The alignment that the device's kernels want of a tensor's first element: 64 bytes on the CPU, 256 on CUDA.
int64_t memory_alignment(Device device);

/// One block of memory, given back when it goes out of scope. The only place that knows where memory comes from.
class MemoryBlock {
 public:
  MemoryBlock() = default;
  /// Allocates `bytes`, cleared to zero. Throws, naming `owner`, where they cannot be had, and a usage error where
  /// `device` is a CUDA device and this build has no CUDA.
  MemoryBlock(const std::string& owner, Device device, MemoryKind kind, int64_t bytes);
  MemoryBlock(MemoryBlock&& other) noexcept { swap(other); }
  MemoryBlock& operator=(MemoryBlock&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MemoryBlock();

  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void swap(MemoryBlock& other) noexcept;

  char* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
  MemoryKind kind_ = MemoryKind::kDevice;
};

}  // namespace deeptitan
