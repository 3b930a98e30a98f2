#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/peer_exchange.h"

namespace deeptitan::cuda {

/// x[i] = ((x_0[i] + x_1[i]) + x_2[i]) + ..., for i in [0, n): x_r lies on rank r where x lies here, in the window.
/// Every rank sums another part of what it has: x_r is read while rank r may be writing what is its own part. Between
/// two barriers (kAcquireRelease): before, all x_r have been written; behind, they may be written again. Has the bits
/// of add_in_rank_order. Takes kPeerSumMultiprocessors; nothing is allocated or waited for.
void peer_sum(float* x, int64_t n, const PeerWindow& window, cudaStream_t stream);

}  // namespace deeptitan::cuda
