#pragma once

#include <cstdint>

#include "kernels/cuda/barrier/peer_window.h"

namespace deeptitan::cuda {

/// What of some elements each rank keeps: rank r those from begin[r] to begin[r + 1].
struct PeerParts {
  int64_t begin[kMaxPeerRanks + 1];
};

}  // namespace deeptitan::cuda
