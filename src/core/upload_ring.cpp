#include "core/upload_ring.h"

#include <cstring>

#include "core/error.h"

namespace deeptitan {
namespace {

constexpr int64_t kAlignment = 16;

}  // namespace

UploadRing::UploadRing(Device device, int64_t bytes, int rooms) {
  if (device.kind == DeviceKind::kCpu) return;
  for (int i = 0; i < rooms; ++i) {
    rooms_.push_back({MemoryBlock("uploads", device, MemoryKind::kPinned, bytes), Event(device), false});
  }
}

void UploadRing::begin() {
  if (rooms_.empty()) return;
  current_ = (current_ + 1) % rooms_.size();
  filled_ = 0;
  const Room& room = rooms_[current_];
  if (room.used && !room.arrived.done()) room.arrived.synchronize();
}

void UploadRing::add_bytes(const Stream& stream, const Tensor& to, const Tensor& from) {
  DT_CHECK(to.dtype() == from.dtype() && to.numel() == from.numel() && to.contiguous(),
           "an upload to {} from {}; expected a contiguous tensor of as many elements of the same type", to.describe(),
           from.describe());
  add(stream, to.raw(), from.raw(), to.bytes());
}

void UploadRing::add(const Stream& stream, void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return;
  if (rooms_.empty()) {
    std::memcpy(to, from, bytes);
    return;
  }
  const MemoryBlock& room = rooms_[current_].memory;
  DT_CHECK(filled_ + bytes <= room.bytes(),
           "a set of uploads was planned for {} bytes; {} more were asked for after {}", room.bytes(), bytes, filled_);
  char* staged = room.data() + filled_;
  std::memcpy(staged, from, bytes);
  stream.copy(to, staged, bytes);
  filled_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void UploadRing::end(const Stream& stream) {
  if (rooms_.empty()) return;
  rooms_[current_].arrived.record(stream);
  rooms_[current_].used = true;
}

}  // namespace deeptitan
