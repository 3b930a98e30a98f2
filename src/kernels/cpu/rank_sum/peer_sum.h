#pragma once

#include <cstdint>

#include "kernels/cuda/barrier/peer_window.h"

namespace deeptitan::cpu {

/// As cuda::peer_sum, for ranks that are threads of one process.
void peer_sum(float* x, int64_t n, const cuda::PeerWindow& window);

}  // namespace deeptitan::cpu
