#pragma once

// Attention over cached latents for few tokens, as in decoding, in three launches that follow closely upon one another:
// norm, rotation and entry into the cache beside the key projection times the query; the tiles of latent_tiles.h; and
// the value projection times what the splits add up to. bf16, latents of 512 and rope keys of 64. All pointers are
// device pointers. Deterministic; a token's result does not depend on those beside it. Nothing is allocated, waited for
// or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace deeptitan::cuda {

/// What the tokens enter into the cache before they attend to it.
struct EnteredLatents {
  bfloat16* cache = nullptr;  // [entries, L + Dr]
  int64_t entries = 0;
  const int32_t* slot = nullptr;        // [tokens]; outside the cache: not written
  const bfloat16* kv_latent = nullptr;  // [tokens, L + Dr], neither normed nor rotated
  int64_t ld_latent = 0;
  const float* norm_weight = nullptr;  // [L]
  float epsilon = 0;
  const float* cos = nullptr;  // [positions, Dr / 2]
  const float* sin = nullptr;
  const int32_t* positions = nullptr;  // [tokens]; negative: padding, not rotated
  bool halves = false;
};

struct FewLatentTokens {
  bfloat16* out = nullptr;          // [tokens, H, Dv]
  const bfloat16* query = nullptr;  // [tokens, H, Dn + Dr], not rotated
  int64_t ld_query = 0;
  const bfloat16* key_weight = nullptr;    // [H, Dn, L]
  const bfloat16* value_weight = nullptr;  // [H, Dv, L]
  int64_t nope_dim = 0;
  int64_t value_dim = 0;
  bfloat16* latent_query = nullptr;   // workspace, [tokens, H, L + Dr]
  LatentRows<bfloat16> entries = {};  // its query is latent_query, and its cache that of `entered`
  EnteredLatents entered = {};
  bool by_warpgroups = false;  // the entries by sm90_latent_attention.h, which takes them
};

/// Whether there are kernels for these sizes and addresses, and the tokens are few.
bool few_latent_fit(const FewLatentTokens& inputs);

/// Enters the tokens' latents, each rounded as rms_norm and rope_rotate round, then out = attention of all tokens;
/// zeros in rows of no sequence. `workspace` as of what adds up the entries.
void few_latent_attention(const FewLatentTokens& inputs, int64_t capacity, float* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
