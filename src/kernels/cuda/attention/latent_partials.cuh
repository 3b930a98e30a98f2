#pragma once

// What the blocks of a token leave of attention over cached latents, for another launch to add up.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/find_document.cuh"

namespace deeptitan::cuda {

inline constexpr int kMostLatentSplits = 64;

/// What a split leaves of one head: the weighted sum of latents, and the largest score and sum of weights behind them.
struct LatentPartials {
  float* latents;     // [tokens, splits, H, L]
  float* statistics;  // [tokens, splits, H, 2]
  int64_t splits;     // of the cache's capacity
  int64_t entries_of_split;
};

/// Entries that a token sees, and its sequence (negative: none).
__device__ inline int64_t visible_entries(const LatentRows<bfloat16>& in, int64_t token, int64_t& sequence) {
  sequence = find_sequence(in.rows, token);
  return sequence < 0 ? 0 : in.cached_length[sequence] + token - in.rows.query_offset[sequence] + 1;
}

/// The splits of all tokens: one launch, which where tokens are few may read entries that are no tokens of this batch
/// before the launch before it ends.
LatentPartials add_up_tiles(const LatentRows<bfloat16>& in, int64_t capacity, float* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
