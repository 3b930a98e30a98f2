#pragma once

#include <cstdint>

#include "core/device.h"
#include "core/device_memory.h"
#include "core/stream.h"
#include "kernels/peer_exchange.h"

namespace deeptitan {

/// Memory of a group's ranks that each one's kernels reach, with the signals by which they meet in it. What it takes is
/// planned: arenas adopt parts of it, in the same order and of the same sizes on all ranks, so that a tensor lies at
/// the same offset on each of them.
class PeerMemory {
 public:
  /// `deadline`: seconds that a rank waits for another.
  PeerMemory(Device device, int rank, int ranks, double deadline);
  virtual ~PeerMemory() = default;
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  int rank() const { return peers_.window.rank; }
  int size() const { return peers_.window.n_ranks; }

  /// Bytes before the first that arenas may have: those of the signals.
  int64_t signal_bytes() const { return signal_bytes_; }
  /// Collective over the group, all with the same `bytes`: takes as many from each rank's device, cleared, behind the
  /// signals.
  void allocate(int64_t bytes);
  /// The first byte of this rank's part that arenas may have.
  char* data() const { return peers_.window.base[rank()] + signal_bytes_; }
  /// Where rows move beside what is computed: not in what waits for gradients of other ranks.
  const Stream& stream() const { return beside_; }
  /// What kernels take.
  const PeerExchange& peers() const { return peers_; }

  /// Bytes that this rank has been planned to move to or from others, as if routing were even.
  int64_t planned_bytes() const { return planned_bytes_; }
  void plan_bytes(int64_t bytes) { planned_bytes_ += bytes - bytes / size(); }

  /// Queues a copy of the word that says who did not come; `check` throws where it came and says so. Waits for nothing.
  void queue_check(const Stream& stream) const;
  void check() const;
  /// Where something has failed: this rank's kernels wait for nobody any more.
  void abandon() noexcept;
  bool abandoned() const { return abandoned_; }

 protected:
  /// Maps `bytes` of all ranks, cleared, aligned to 4096.
  virtual void map(int64_t bytes, cuda::PeerWindow& window) = 0;

 private:
  Device device_;
  PeerExchange peers_;
  int64_t signal_bytes_ = 0;
  int64_t planned_bytes_ = 0;
  bool abandoned_ = false;
  MemoryBlock words_, found_;
  Stream beside_, giving_up_;
};

/// Of ranks that are only planned.
class PlannedMemory final : public PeerMemory {
 public:
  PlannedMemory(Device device, int rank, int ranks) : PeerMemory(device, rank, ranks, 1) {}

 private:
  void map(int64_t bytes, cuda::PeerWindow& window) override;
};

}  // namespace deeptitan
