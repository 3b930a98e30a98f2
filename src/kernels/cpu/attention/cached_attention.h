#pragma once

#include <cstdint>

#include "core/bfloat16.h"

// Attention of the sequences of a batch over their cached latents, in two forms that give the same values up to
// rounding. Legend: T tokens, H heads, Dn nope and Dr rope part of a key, Dv value, L latent rank.

namespace deeptitan::cpu {

/// A sequence with at least this many query rows in the batch expands its latents to keys and values, else it absorbs
/// the projections into query and output. Expanding costs H * L * (Dn + Dv) products an entry whatever the rows, and
/// saves H * (2 L - Dn - Dv) products an entry and row. Nothing else decides, so that a row's bits depend on no batch.
inline constexpr int64_t kExpandedRows = 64;

/// Sequence s holds the query rows query_offset[s] up to query_offset[s + 1], which stand behind cached_length[s]
/// entries of its own; row i of them sees the first cached_length[s] + i + 1 entries. Entry i is row i % page_size of
/// page page_table[s, i / page_size]: the rows' own entries have been written there. Rows from the last offset on are
/// padding.
struct BatchSequences {
  const int32_t* query_offset;   // [sequences + 1]
  const int32_t* cached_length;  // [sequences]
  const int32_t* page_table;     // [sequences, page_table_stride]
  int64_t page_table_stride;
  int64_t page_size;
  int64_t sequences;
  int64_t tokens;     // T, padding included
  int64_t max_query;  // upper bounds of the rows of a sequence, and of the entries that a row sees
  int64_t max_visible;

  int64_t rows(int64_t s) const { return query_offset[s + 1] - query_offset[s]; }
};

/// A layer's attention over its cache.
template <typename T>
struct CachedAttention {
  const T* query;  // [T, H, Dn + Dr]
  const T* cache;  // pages of [page_size, L + Dr]: latent, then roped key
  BatchSequences sequences;
  int64_t heads;
  int64_t nope_dim;
  int64_t rope_dim;
  int64_t value_dim;
  int64_t latent_dim;
  float scale;
};

/// One packed matrix a head, `stride` words from head to head.
struct HeadWeights {
  const uint32_t* packed;
  int64_t stride;
};

/// out[t, h] = sum_i softmax_i(scale * q[t, h] . (W_key latent_i, rope_i)) W_value latent_i, for the rows of sequences
/// with at least kExpandedRows rows; the others' are left alone. key_weight is packed for latent -> Dn, value_weight
/// for latent -> Dv. Keys and values exist for one head and a block of entries a thread at a time, and have the bits
/// that attention_forward is given in training; so has a row that sees no more than one block. Deterministic.
template <typename T>
void expanded_attention(T* out /* [T, H, Dv] */, const CachedAttention<T>& in, const HeadWeights& key_weight,
                        const HeadWeights& value_weight, void* workspace);
struct ExpandedSize {
  int64_t max_query;
  int64_t max_visible;
  int64_t key_dim;  // Dn + Dr
  int64_t value_dim;
};
int64_t expanded_attention_workspace(const ExpandedSize& size, int64_t element_size);

/// The same for the rows of sequences with fewer rows: the query's nope part times W_key, attention in the latent space
/// (latent_attention), its result times W_value. Padding rows become zeros. key_weight is packed for Dn -> latent.
template <typename T>
void absorbed_attention(T* out /* [T, H, Dv] */, const CachedAttention<T>& in, const HeadWeights& key_weight,
                        const HeadWeights& value_weight, void* workspace);
/// `tokens` and `sequences` bound the rows; a sequence has fewer than kExpandedRows of them.
int64_t absorbed_attention_workspace(int64_t tokens, int64_t sequences, int64_t max_visible, int64_t heads,
                                     int64_t latent_dim, int64_t rope_dim, int64_t element_size);

/// cache entry slot[t] = (latent[t], key_rope[t]); a slot of -1 is not written. Slots count entries over all pages.
/// Throws Error where one is outside `entries`.
template <typename T>
void write_latent_cache(T* cache /* [entries, L + Dr] */, const int32_t* slot /* [tokens] */, const T* latent,
                        int64_t ld_latent, const T* key_rope, int64_t ld_key_rope, int64_t tokens, int64_t latent_dim,
                        int64_t rope_dim, int64_t entries);

}  // namespace deeptitan::cpu
