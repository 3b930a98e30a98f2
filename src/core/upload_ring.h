#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/arena.h"
#include "core/stream.h"
#include "core/tensor.h"

namespace deeptitan {

/// Brings tables of the host to a device's tensors without making the host wait: values are copied to pinned memory at
/// once, and from there behind what the stream does. Uploads come in sets (one batch, one step's input), of which
/// `rooms` can be on their way. On the CPU an upload is a copy.
class UploadRing {
 public:
  UploadRing() = default;
  /// Takes `rooms` rooms of `bytes` bytes for one set each.
  UploadRing(Device device, int64_t bytes, int rooms);

  /// Begins a set. Waits only where the one that was begun `rooms` sets ago has not arrived yet.
  void begin();
  /// tensor = values, as many as it has elements; T is the tensor's type. The values may change when this returns.
  template <typename T>
  void add(const Stream& stream, const Tensor& tensor, std::span<const T> values) {
    add_bytes(stream, tensor, Tensor(const_cast<T*>(values.data()), DTypeOf<T>::value, {std::ssize(values)}));
  }
  /// The same for a block of any type at an address of the device.
  void add(const Stream& stream, void* to, const void* from, int64_t bytes);
  /// Ends it.
  void end(const Stream& stream);

 private:
  struct Room {
    MemoryBlock memory;
    Event arrived;
    bool used = false;
  };
  void add_bytes(const Stream& stream, const Tensor& to, const Tensor& from);

  std::vector<Room> rooms_;  // none on the CPU
  size_t current_ = 0;
  int64_t filled_ = 0;
};

}  // namespace deeptitan
