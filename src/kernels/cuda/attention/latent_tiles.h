#pragma once

// Attention over cached latents on tensor cores: bf16, latents of 512 and rope keys of 64. The heads of a token share
// the entries, so that a tile of 64 entries is read once for 16 heads. Where tokens are few, as in decoding, a token's
// entries are split among blocks, by the capacity of the cache and the class of the batch alone. All pointers are
// device pointers. Deterministic; a token's result does not depend on those beside it, but for their class. Nothing is
// allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace deeptitan::cuda {

/// Most tokens of a batch that are few, and that are a batch of decoding: what the splits are chosen by, beside the
/// capacity.
inline constexpr int64_t kFewLatentTokens = 16;
inline constexpr int64_t kBatchLatentTokens = 256;

/// Whether there is a kernel for these sizes, on a chip with the shared memory that a block wants.
bool latent_tiles_fit(const LatentRows<bfloat16>& inputs);

/// Floats of workspace where no token sees more than `capacity` entries.
int64_t latent_tiles_workspace(int64_t tokens, int64_t heads, int64_t latent_dim, int64_t capacity);

/// As latent_attention (`visible` is not taken). Two launches.
void latent_attention_by_tiles(bfloat16* out, const LatentRows<bfloat16>& inputs, int64_t capacity, float* workspace,
                               cudaStream_t stream);

}  // namespace deeptitan::cuda
