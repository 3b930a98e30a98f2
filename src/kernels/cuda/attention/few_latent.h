#pragma once

// Attention over cached latents for few tokens, as in decoding: the key projection times the query, the tiles of
// latent_tiles.h, and the value projection times what the splits add up to, in three launches that follow closely upon
// one another. bf16, latents of 512 and rope keys of 64. All pointers are device pointers. Deterministic; a token's
// result does not depend on those beside it. Nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace deeptitan::cuda {

/// Most latents of an entry that enter_few_latents takes.
inline constexpr int64_t kMostEnteredLatents = 2048;

/// What a batch's few tokens enter into the cache, and the queries that will meet it.
struct EnteredLatents {
  bfloat16* cache = nullptr;  // [entries, L + Dr]
  int64_t entries = 0;
  const int32_t* slot = nullptr;  // [tokens]; outside the cache: not written
  bfloat16* query = nullptr;      // [tokens, H, Dn + Dr]
  int64_t ld_query = 0;
  const bfloat16* kv_latent = nullptr;  // [tokens, L + Dr]
  int64_t ld_latent = 0;
  const float* norm_weight = nullptr;  // [L]
  float epsilon = 0;
  const float* cos = nullptr;  // [positions, Dr / 2]
  const float* sin = nullptr;
  const int32_t* positions = nullptr;  // [tokens]; negative: padding, not rotated
  bool halves = false;
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t latent_dim = 0;
};

/// Writes the normed latents and the rotated rope keys into the cache, and rotates the queries in place, each rounded
/// as rms_norm and rope_rotate round. One launch.
void enter_few_latents(const EnteredLatents& inputs, cudaStream_t stream);

struct FewLatentTokens {
  bfloat16* out = nullptr;          // [tokens, H, Dv]
  const bfloat16* query = nullptr;  // [tokens, H, Dn + Dr], rotated
  int64_t ld_query = 0;
  const bfloat16* key_weight = nullptr;    // [H, Dn, L]
  const bfloat16* value_weight = nullptr;  // [H, Dv, L]
  int64_t nope_dim = 0;
  int64_t value_dim = 0;
  bfloat16* latent_query = nullptr;   // workspace, [tokens, H, L + Dr]
  LatentRows<bfloat16> entries = {};  // its query is latent_query
};

/// Whether there are kernels for these sizes and addresses, and the tokens are few.
bool few_latent_fit(const FewLatentTokens& inputs);

/// out = attention of all tokens; zeros in rows of no sequence. `workspace` as of latent_tiles.h.
void few_latent_attention(const FewLatentTokens& inputs, int64_t capacity, float* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
