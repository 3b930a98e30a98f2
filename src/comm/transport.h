#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace deeptitan {

/// Moves bytes between two ranks of the world without waiting: all that a library has to offer for HostCommunicator.
/// Messages from one rank to another over one channel arrive in the order in which they were begun; channels do not
/// meet. Used by one thread at a time.
class Transport {
 public:
  /// Names one message on its way.
  using Message = int64_t;

  virtual ~Transport() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Bytes of the largest message; who has more cuts it.
  virtual size_t max_message() const = 0;

  /// `data` stays as it is, and where it is, until the message is done or given up.
  virtual Message begin_send(const void* data, size_t bytes, int to, int channel) = 0;
  virtual Message begin_receive(void* data, size_t bytes, int from, int channel) = 0;
  /// Whether the message has gone or come; then its name is no longer valid. Throws Error where it never will, or has
  /// not the length that was expected.
  virtual bool done(Message message) = 0;
  /// Lets a message go that will not be waited for, because something else has failed.
  virtual void give_up(Message message) noexcept = 0;

  /// Tells `ranks` that this one ends because it has waited for them in vain, as far as that goes without waiting.
  virtual void miss(std::span<const int> ranks) noexcept { static_cast<void>(ranks); }
  /// Whether another rank has ended because it waited for this one in vain: if this one waits itself, for one that has
  /// not ended, it is to say so.
  virtual bool missed() const { return false; }
  /// Whether it is known that a rank has ended, or is about to.
  virtual bool has_ended(int rank) const { return static_cast<void>(rank), false; }
};

}  // namespace deeptitan
