#pragma once

#include "comm/transport.h"

namespace deeptitan {

/// A rank of a world that is only planned: its groups have their sizes and count what they would send
/// (Communicator::planned_bytes), and nothing can be exchanged.
class PlannedTransport final : public Transport {
 public:
  explicit PlannedTransport(int size, int rank = 0) : size_(size), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  size_t max_message() const override { return 1; }
  Message begin_send(const void* data, size_t bytes, int to, int channel) override;
  Message begin_receive(void* data, size_t bytes, int from, int channel) override;
  bool done(Message message) override;
  void give_up(Message message) noexcept override;

 private:
  int size_;
  int rank_;
};

}  // namespace deeptitan
