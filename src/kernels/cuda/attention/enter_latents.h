#pragma once

// What a prompt's tokens enter into the latent cache, a warp a token: the form of enter_few_latents for many tokens.
// All pointers are device pointers. Deterministic; a token's result does not depend on those beside it. Nothing is
// allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include "kernels/cuda/attention/few_latent.h"

namespace deeptitan::cuda {

/// The tokens' queries beside what they enter.
struct EnteredPrompt {
  EnteredLatents entered = {};
  bfloat16* query = nullptr;  // [tokens, H, Dn + Dr]: rotated in place
  int64_t ld_query = 0;
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t latent_dim = 0;
};

/// Whether a warp's registers hold the latents, and all lie so that eight neighbours are read at once.
bool enter_latents_fit(const EnteredPrompt& prompt);

/// The bits of rms_norm, rope_rotate and write_latent_cache one after another, in one launch. Neither the normed
/// latents nor the rotated rope keys are written anywhere but into the cache.
void enter_latents(const EnteredPrompt& prompt, cudaStream_t stream);

}  // namespace deeptitan::cuda
