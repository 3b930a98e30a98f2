#pragma once

#include <cstdint>

#include "core/bfloat16.h"

// Causal attention over packed documents, and attention over a latent cache.
// Legend: T tokens, H heads, Dn nope and Dr rope part of a key (Dq = Dn + Dr), Dv value, S longest document,
// L latent rank, C cached entries.

namespace deeptitan::cpu {

/// The tensors of expanded multi-head latent attention. Document d holds tokens document_offset[d] up to
/// document_offset[d + 1]; a token sees itself and the tokens before it in its document.
template <typename T>
struct AttentionInputs {
  const T* query;                  // [T, H, Dn + Dr]
  const T* key_value;              // [T, H, Dn + Dv]: a head's nope key, then its value
  const T* key_rope;               // [T, Dr], shared by the heads
  int64_t ld_key_rope;             // elements from token to token of key_rope
  const int32_t* document_offset;  // [documents + 1]
  int64_t documents;
  int64_t longest;  // S
  int64_t heads;
  int64_t nope_dim;
  int64_t rope_dim;
  int64_t value_dim;
  float scale;  // of the scores, before the softmax
};

/// Bytes of workspace for attention_forward and attention_backward: linear in the longest document.
int64_t attention_forward_workspace(int64_t longest, int64_t nope_dim, int64_t rope_dim, int64_t value_dim,
                                    int64_t element_size);
int64_t attention_backward_workspace(int64_t tokens, int64_t longest, int64_t heads, int64_t nope_dim, int64_t rope_dim,
                                     int64_t value_dim, int64_t element_size);

/// out[t, h, :] = sum_s softmax_s(scale * q[t, h] . k[s, h]) v[s, h] over the s <= t of t's document.
/// log_sum_exp[t, h] (nullptr: not wanted) is what the backward needs to recompute the probabilities.
/// Deterministic; a document's rows do not depend on what it is packed with.
template <typename T>
void attention_forward(T* out /* [T, H, Dv] */, float* log_sum_exp /* [T, H] */, const AttentionInputs<T>& inputs,
                       void* workspace);

/// Gradients of attention_forward. All outputs are overwritten. d_key_rope is the sum over heads, in head order.
template <typename T>
struct AttentionGradients {
  T* d_query;      // [T, H, Dn + Dr]
  T* d_key_value;  // [T, H, Dn + Dv]
  T* d_key_rope;   // [T, Dr]
  int64_t ld_d_key_rope;
};
template <typename T>
void attention_backward(const AttentionGradients<T>& gradients, const T* d_out, const T* out, const float* log_sum_exp,
                        const AttentionInputs<T>& inputs, void* workspace);

/// One query token of one sequence, against that sequence's cached latents (absorbed attention).
/// Entries lie in pages of page_size tokens: entry i is row i % page_size of page page_table[table_row, i / page_size].
template <typename T>
struct LatentAttentionInputs {
  const T* query;             // [T, H, L + Dr]: the nope query times the key projection, then the roped part
  const T* cache;             // pages of [page_size, L + Dr]: latent, then roped key
  const int32_t* page_table;  // [sequences, page_table_stride]
  int64_t page_table_stride;
  int64_t page_size;
  const int32_t* table_row;  // [T]: which row of page_table is the token's
  const int32_t* visible;    // [T]: entries that this token sees, itself included
  int64_t tokens;
  int64_t most_visible;  // an upper bound of visible[]
  int64_t heads;
  int64_t latent_dim;
  int64_t rope_dim;
  float scale;
};
int64_t latent_attention_workspace(int64_t tokens, int64_t most_visible, int64_t heads, int64_t latent_dim,
                                   int64_t rope_dim);

/// out[t, h, :] = sum_i softmax_i(scale * q[t, h] . entry_i) latent_i over the entries that t sees.
/// Entries are split into chunks of fixed size, combined in order: the result does not depend on threads or batch.
template <typename T>
void latent_attention(T* out /* [T, H, L] */, const LatentAttentionInputs<T>& inputs, void* workspace);

}  // namespace deeptitan::cpu
