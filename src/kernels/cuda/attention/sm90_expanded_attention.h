#pragma once

// Attention over cached latents in expanded form on Hopper, bf16: the latents that a sequence's rows see are gathered
// from its pages, keys and values are made from them by the grouped product, and attention goes over those as over a
// document's. A prompt that comes in chunks has the bits of one that comes whole: tiles are cut at positions. All
// pointers are device pointers; nothing is allocated, waited for or read back: how many entries there are the device
// knows.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cuda/attention/attention.h"

namespace deeptitan::cuda {

/// What is attended over, and by whom. The sequences meant are those with at least `least` rows.
struct ExpandedAttention {
  const bfloat16* query = nullptr;         // [tokens, H, Dn + Dr]
  const bfloat16* cache = nullptr;         // pages of [page_size, L + Dr]: latent, then roped key
  const bfloat16* key_weight = nullptr;    // [H, Dn, L]
  const bfloat16* value_weight = nullptr;  // [H, Dv, L]
  SequenceRows rows = {};                  // `most` is not read
  const int32_t* cached_length = nullptr;  // [sequences]
  const int32_t* page_table = nullptr;     // [sequences, page_table_stride]
  int64_t page_table_stride = 0;
  int64_t page_size = 0;
  int64_t most_visible = 0;  // entries that a row sees at most
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t value_dim = 0;
  int64_t latent_dim = 0;
  float scale = 0;
};

/// Whether there is a kernel for these sizes, on Hopper, and keys and values of one sequence are at most 512 MiB. Reads
/// no pointer.
bool sm90_expanded_attention_fits(const ExpandedAttention& in);

/// Bytes of workspace: keys and values of as many of the sequences that a batch of `tokens` rows can have as 512 MiB
/// hold, the others wait for their turn.
int64_t sm90_expanded_attention_workspace(const ExpandedAttention& in);

/// out [tokens, H, Dv] in the rows of the sequences that are meant; the others are left alone. Five launches for each
/// turn; how many of those there are depends on capacities alone.
void sm90_expanded_attention(bfloat16* out, const ExpandedAttention& in, void* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
