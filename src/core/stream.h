#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "core/device.h"

namespace deeptitan {

/// Whose blocks a GPU begins first where both wait for a multiprocessor.
enum class StreamPriority { kUsual, kUrgent };

/// A queue of work on a device, done in order. The CPU has none: its work is done when the call that asks for it
/// returns. A cheap handle; copies name the same queue.
class Stream {
 public:
  /// The CPU's.
  Stream() = default;
  /// A queue of its own on `device`, beside which nothing waits.
  explicit Stream(Device device, StreamPriority priority = StreamPriority::kUsual);

  Device device() const { return device_; }
  /// cudaStream_t on CUDA, nullptr on the CPU.
  void* native() const { return native_.get(); }
  /// Copies bytes between any two memories, behind what was queued before.
  void copy(void* to, const void* from, int64_t bytes) const;
  /// Waits until all that was queued is done.
  void synchronize() const;
  /// Whether something that was queued has failed: nothing runs on the device any more. Waits for nothing.
  bool failed() const;
  /// Whether what is queued goes into a graph rather than to the device.
  bool capturing() const;

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
  /// Whether it is over, or never will be because something has failed. Waits for nothing.
  bool done() const;
  /// The host waits for it.
  void synchronize() const;
  /// Seconds from an earlier event, both recorded and done.
  double seconds_since(const Event& earlier) const;

 private:
  Device device_;
  std::shared_ptr<void> native_;
  double time_ = 0;
};

/// Looks at this thread's waits for a GPU (of streams and events) from now on: it is called again and again with the
/// seconds that a wait has taken so far, and may end it by throwing. An empty function ends it.
void set_wait_watch(std::function<void(double)> watch);

}  // namespace deeptitan
