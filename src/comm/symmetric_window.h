#pragma once

#include <cstddef>
#include <memory>

#include "comm/communicator.h"
#include "comm/nccl_handle.h"
#include "kernels/cuda/barrier/peer_window.h"

namespace deeptitan {

/// Device memory of the same size on every rank of one NVLink domain, which every rank's kernels can load from and
/// store to. NCCL allocates it and maps the peers' memory into this process; nothing else of NCCL is used on it. In
/// particular no ncclSend or ncclRecv: on registered buffers they were seen to hang from 1 MiB up (NCCL 2.28.9).
class SymmetricWindow {
 public:
  /// Collective over the communicator's ranks, all with the same `bytes`; waits for them. The memory is zero on every
  /// rank once any rank returns, so that signal pads may be used at once. Throws Error if the ranks do not share one
  /// NVLink domain, if the loaded NCCL is not the release that this was compiled against, if NCCL refuses, or where the
  /// others do not come within `deadline` seconds.
  SymmetricWindow(const NcclHandle& communicator, size_t bytes, double deadline = 300);
  SymmetricWindow(const SymmetricWindow&) = delete;
  SymmetricWindow& operator=(const SymmetricWindow&) = delete;
  /// Collective too, unless the communicator was given up: no rank may still be reading another's memory.
  ~SymmetricWindow();

  /// This rank's memory, aligned to at least 4096 bytes: peers().base[rank], not the other address that NCCL's
  /// allocation has, so that offsets from it are offsets in the window.
  char* data() const { return peers_.base[peers_.rank]; }
  size_t bytes() const { return bytes_; }
  /// All ranks' memory, for kernels.
  const cuda::PeerWindow& peers() const { return peers_; }

 private:
  void release();

  const NcclHandle& communicator_;
  size_t bytes_;
  void* allocation_ = nullptr;
  ncclWindow_t window_ = nullptr;
  cuda::PeerWindow peers_{};
};

/// One of a group of GPU ranks (see DeviceGroups), which its ranks make together, once for what uses it. Throws as
/// SymmetricWindow does, and where the group is not one of GPUs.
std::unique_ptr<SymmetricWindow> make_symmetric_window(const Communicator& group, size_t bytes);

}  // namespace deeptitan
