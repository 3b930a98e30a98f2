#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/device_memory.h"
#include "core/stream.h"

namespace deeptitan {

/// Which part of which step a device has begun last, kept where the host can read it when the device does nothing for
/// the process any more: the step's number is copied there at each part's beginning, in the stream's order.
class BegunParts {
 public:
  BegunParts() = default;
  /// Nothing is kept on the CPU, whose errors come from the call itself.
  BegunParts(Device device, size_t parts)
      : parts_(device.kind == DeviceKind::kCpu ? 0 : parts),
        steps_("begun parts", device, MemoryKind::kPinned, static_cast<int64_t>(parts_ * sizeof(int64_t))) {}

  /// Queues that the part has begun; `step` lies on the device.
  void begin(const Stream& stream, size_t part, const int64_t* step) const {
    if (part < parts_) stream.copy(steps_.data() + part * sizeof(int64_t), step, sizeof(int64_t));
  }
  /// {step, part}, the later part where several have begun in that step; step 0: none has.
  std::pair<int64_t, size_t> last() const {
    std::pair<int64_t, size_t> found{0, 0};
    for (size_t part = 0; part < parts_; ++part) {
      const int64_t step = reinterpret_cast<const volatile int64_t*>(steps_.data())[part];
      if (step > 0 && step >= found.first) found = {step, part};
    }
    return found;
  }

 private:
  size_t parts_ = 0;
  MemoryBlock steps_;
};

}  // namespace deeptitan
