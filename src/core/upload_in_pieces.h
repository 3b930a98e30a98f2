#pragma once

#include <cstdint>
#include <functional>

#include "core/stream.h"

namespace deeptitan {

/// Pinned memory that one thread of upload_in_pieces fills, and the way from there to the device.
class UploadRoom {
 public:
  UploadRoom(char* memory, const Stream& stream) : memory_(memory), stream_(stream) {}

  void* memory() const { return memory_; }
  /// to = bytes [offset, offset + bytes) of the room; queued.
  void copy(void* to, int64_t offset, int64_t bytes) const { stream_.copy(to, memory_ + offset, bytes); }

 private:
  char* memory_;
  const Stream& stream_;
};

/// Brings pieces 0 to `pieces` - 1 to a device as fast as its bus takes them: several threads take them in order, each
/// fills a room of `bytes` bytes and copies from it to where the piece belongs, with another room of its own on its
/// way. Returns when all have arrived. Where some fail, throws what the first of them, in their order, threw.
void upload_in_pieces(Device device, int64_t pieces, int64_t bytes,
                      const std::function<void(int64_t piece, const UploadRoom& room)>& fill);

}  // namespace deeptitan
