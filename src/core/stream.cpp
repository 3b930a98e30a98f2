#include "core/stream.h"

#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "core/clock.h"
#ifdef DT_CUDA
#include "core/cuda_stream.h"
#endif

namespace deeptitan {
namespace {

bool is_cpu(Device device) {
  return device.kind == DeviceKind::kCpu;
}

thread_local std::function<void(double)> wait_watch;

#ifdef DT_CUDA
// Where somebody watches, waits until `done` says so.
template <typename Done>
void wait_watched(const Done& done) {
  if (!wait_watch) return;
  constexpr double kBusySeconds = 0.005;
  double begin = 0;
  while (!done()) {
    const double now = monotonic_seconds();
    if (begin == 0) begin = now;
    wait_watch(now - begin);
    if (now - begin > kBusySeconds) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    } else {
      std::this_thread::yield();
    }
  }
}
#endif

}  // namespace

void set_wait_watch(std::function<void(double)> watch) {
  wait_watch = std::move(watch);
}

#ifdef DT_CUDA

Stream::Stream(Device device, StreamPriority priority)
    : device_(device),
      native_(is_cpu(device) ? nullptr : cuda::make_stream(device.index, priority == StreamPriority::kUrgent)) {}

void Stream::copy(void* to, const void* from, int64_t bytes) const {
  if (native_ != nullptr) return cuda::copy(to, from, bytes, native());
  std::memcpy(to, from, bytes);
}

void Stream::synchronize() const {
  if (native_ == nullptr) return;
  wait_watched([&] { return cuda::stream_done(native()); });
  cuda::synchronize_stream(native());
}

bool Stream::failed() const {
  return native_ != nullptr && cuda::stream_failed(native());
}

bool Stream::capturing() const {
  return native_ != nullptr && cuda::stream_captures(native());
}

Event::Event(Device device) : device_(device), native_(is_cpu(device) ? nullptr : cuda::make_event(device.index)) {}

void Event::record(const Stream& stream) {
  if (native_ != nullptr) return cuda::record_event(native_.get(), stream.native());
  time_ = monotonic_seconds();
}

void Event::make_wait(const Stream& stream) const {
  if (native_ != nullptr) cuda::make_wait(native_.get(), stream.native());
}

bool Event::done() const {
  return native_ == nullptr || cuda::event_done(native_.get());
}

void Event::synchronize() const {
  if (native_ == nullptr) return;
  wait_watched([&] { return done(); });
  cuda::synchronize_event(native_.get());
}

double Event::seconds_since(const Event& earlier) const {
  if (native_ != nullptr) return cuda::seconds_between(earlier.native_.get(), native_.get());
  return time_ - earlier.time_;
}

#else

Stream::Stream(Device device, StreamPriority /*priority*/) : device_(device) {
  if (!is_cpu(device)) fail_without_cuda("a stream", device);
}

void Stream::copy(void* to, const void* from, int64_t bytes) const {
  std::memcpy(to, from, bytes);
}

void Stream::synchronize() const {}

bool Stream::failed() const {
  return false;
}

bool Stream::capturing() const {
  return false;
}

Event::Event(Device device) : device_(device) {
  if (!is_cpu(device)) fail_without_cuda("an event", device);
}

void Event::record(const Stream& /*stream*/) {
  time_ = monotonic_seconds();
}

void Event::make_wait(const Stream& /*stream*/) const {}

bool Event::done() const {
  return true;
}

void Event::synchronize() const {}

double Event::seconds_since(const Event& earlier) const {
  return time_ - earlier.time_;
}

#endif

}  // namespace deeptitan
