#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/peer_memory.h"

namespace deeptitan {

/// Memory of the GPUs of one host, which map each other's over NVLink (CUDA's inter-process handles): nothing else
/// knows of it, so that what lies in it can be sent by any library.
class IpcMemory final : public PeerMemory {
 public:
  /// `group`: the ranks, for what lies in the host's memory. It outlives this.
  IpcMemory(Device device, Communicator& group);
  /// Collective, unless it was abandoned: no rank may still be reading another's memory.
  ~IpcMemory() override;

 private:
  void map(int64_t bytes, cuda::PeerWindow& window) override;
  void release() noexcept;

  Device device_;
  Communicator& group_;
  MemoryBlock block_;
  std::vector<void*> mapped_;  // of the others
};

/// Why the group's GPUs cannot reach each other's memory; empty: they can. Collective; the same on all ranks.
std::string why_not_reached(Device device, Communicator& group);

}  // namespace deeptitan
