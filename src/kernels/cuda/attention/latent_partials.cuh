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

/// Where split `split` of a token and head lies, in rows.
__host__ __device__ inline int64_t partial_row(const LatentPartials& partial, int64_t heads, int64_t token,
                                               int64_t split, int64_t head) {
  return (token * partial.splits + split) * heads + head;
}

/// Entries that a token sees, and its sequence (negative: none).
__device__ inline int64_t visible_entries(const LatentRows<bfloat16>& in, int64_t token, int64_t& sequence) {
  sequence = find_sequence(in.rows, token);
  return sequence < 0 ? 0 : in.cached_length[sequence] + token - in.rows.query_offset[sequence] + 1;
}

/// The splits of all tokens: one launch, which where tokens are few may read entries that are no tokens of this batch
/// before the launch before it ends.
LatentPartials add_up_tiles(const LatentRows<bfloat16>& in, int64_t capacity, float* workspace, cudaStream_t stream);

/// The same by the kernel of sm90_latent_attention.h.
LatentPartials sm90_add_up_entries(const LatentRows<bfloat16>& in, int64_t capacity, float* workspace,
                                   cudaStream_t stream);

/// out [tokens, H, L] = the splits, added up in their order. One launch.
void add_splits(bfloat16* out, const LatentPartials& partial, const LatentRows<bfloat16>& in, cudaStream_t stream);

}  // namespace deeptitan::cuda
