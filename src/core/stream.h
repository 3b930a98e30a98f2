#pragma once

#include <cstdint>
#include <memory>

#include "core/device.h"

namespace deeptitan {

/// A queue of work on a device, done in order. The CPU has none: its work is done when the call that asks for it
/// returns. A cheap handle; copies name the same queue.
class Stream {
 public:
  /// The CPU's.
  Stream() = default;
  /// A queue of its own on `device`, beside which nothing waits.
  explicit Stream(Device device);

  Device device() const { return device_; }
  /// cudaStream_t on CUDA, nullptr on the CPU.
  void* native() const { return native_.get(); }
  /// Copies bytes between any two memories, behind what was queued before.
  void copy(void* to, const void* from, int64_t bytes) const;
  /// Waits until all that was queued is done.
  void synchronize() const;
  /// Whether something that was queued has failed: nothing runs on the device any more. Waits for nothing.
  bool failed() const;

 private:
  Device device_;
  std::shared_ptr<void> native_;
};

/// A point in a stream's work that another stream, or the host, waits for, and whose time can be asked.
class Event {
 public:
  /// The CPU's.
  Event() = default;
  explicit Event(Device device);

  Device device() const { return device_; }
  /// Marks what is queued in `stream` now.
  void record(const Stream& stream);
  /// What is queued in `stream` from now on waits for this event.
  void make_wait(const Stream& stream) const;
  /// The host waits for it.
  void synchronize() const;
  /// Seconds from an earlier event, both recorded and done.
  double seconds_since(const Event& earlier) const;

 private:
  Device device_;
  std::shared_ptr<void> native_;
  double time_ = 0;
};

}  // namespace deeptitan
