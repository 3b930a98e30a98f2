#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/rank_sum/peer_parts_of_ranks.h"

namespace deeptitan::cuda {

/// x = what the ranks keep of it, each its part, which lies on rank r where x lies here, in the window. This rank's own
/// part stays. Between two barriers (kAcquireRelease): before, all parts have been written; behind, they may be again.
/// Deterministic; nothing is allocated or waited for.
void fetch_parts(float* x, const PeerParts& parts, const PeerWindow& window, cudaStream_t stream);

/// The same of what the ranks have rounded to bf16: x may lie anywhere, `rounded` has as many floats' room in the
/// window, and part r's elements follow one another from its float begin[r] on.
void fetch_rounded_parts(float* x, const float* rounded, const PeerParts& parts, const PeerWindow& window,
                         cudaStream_t stream);

}  // namespace deeptitan::cuda
