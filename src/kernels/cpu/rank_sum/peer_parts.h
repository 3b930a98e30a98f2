#pragma once

#include "kernels/cuda/rank_sum/peer_parts_of_ranks.h"

namespace deeptitan::cpu {

/// As cuda::fetch_parts and cuda::fetch_rounded_parts, for ranks that are threads of one process.
void fetch_parts(float* x, const cuda::PeerParts& parts, const cuda::PeerWindow& window);
void fetch_rounded_parts(float* x, const float* rounded, const cuda::PeerParts& parts, const cuda::PeerWindow& window);

}  // namespace deeptitan::cpu
