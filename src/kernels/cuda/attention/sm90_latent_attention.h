#pragma once

// Attention over cached latents with many heads, by Hopper's warpgroup products: bf16, latents of 512 and rope keys of
// 64. A block takes 64 heads of a token, so that an entry that it reads is multiplied 64 times; in larger batches fewer
// heads do too. All pointers are device
// pointers. Deterministic; a token's result does not depend on those beside it, but for the class of their number.
// Nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace deeptitan::cuda {

/// Whether the kernel takes these sizes and addresses, on a Hopper chip (the caller asks).
bool sm90_latent_attention_fits(const LatentRows<bfloat16>& inputs);

/// Floats of workspace where no token sees more than `capacity` entries.
int64_t sm90_latent_attention_workspace(int64_t tokens, int64_t heads, int64_t capacity);

/// As latent_attention (`visible` is not taken). One launch, or two where a token's entries are split among blocks.
void sm90_latent_attention(bfloat16* out, const LatentRows<bfloat16>& inputs, int64_t capacity, float* workspace,
                           cudaStream_t stream);

}  // namespace deeptitan::cuda
