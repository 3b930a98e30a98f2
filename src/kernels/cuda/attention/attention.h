#pragma once

// Attention on the GPU in its plain form, any size; kernels/cpu/attention/attention.h says what each function computes
// and has the legend. All pointers are device pointers. Deterministic; nothing is allocated, waited for or read back. A
// row's result does not depend on the rows beside it, nor on what its document is packed with.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cpu/attention/attention.h"

namespace deeptitan::cuda {

/// As cpu::attention_forward over `tokens` rows of out; rows that no document holds become zeros. inputs.longest is not
/// read. Throws Error where a head is too wide for a block's shared memory. One launch.
template <typename T>
void attention_forward(T* out, float* log_sum_exp, const cpu::AttentionInputs<T>& inputs, int64_t tokens,
                       cudaStream_t stream);

/// Bytes of workspace of attention_backward.
int64_t attention_backward_workspace(int64_t tokens, int64_t heads, int64_t rope_dim);

/// As cpu::attention_backward, the gradients of rows that no document holds zeros. Four launches.
template <typename T>
void attention_backward(const cpu::AttentionGradients<T>& gradients, const T* d_out, const T* out,
                        const float* log_sum_exp, const cpu::AttentionInputs<T>& inputs, int64_t tokens,
                        void* workspace, cudaStream_t stream);

/// Rows of a batch: sequence s holds the rows query_offset[s] up to query_offset[s + 1]. Meant are those of sequences
/// with `least` to `most` of them; rows that no sequence holds are padding.
struct SequenceRows {
  const int32_t* query_offset = nullptr;  // [sequences + 1]
  int64_t sequences = 0;
  int64_t least = 0;
  int64_t most = 0;
};

/// Attention of a batch's rows over the latents that their sequences have cached: row i of sequence s sees its first
/// cached_length[s] + i + 1 entries, of which entry j is row j % page_size of page page_table[s, j / page_size]. With
/// `visible` each token is a sequence.
template <typename T>
struct LatentRows {
  const T* query = nullptr;  // [tokens, H, L + Dr]: the nope query times the key projection, then the roped part
  const T* cache = nullptr;  // pages of [page_size, L + Dr]: latent, then roped key
  SequenceRows rows = {};
  const int32_t* cached_length = nullptr;  // [sequences]
  const int32_t* visible =
      nullptr;  // [tokens]: entries that each token sees, in place of rows and cached_length; or null
  const int32_t* page_table = nullptr;  // [sequences, page_table_stride]
  int64_t page_table_stride = 0;
  int64_t page_size = 0;
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t latent_dim = 0;
  int64_t rope_dim = 0;
  float scale = 0;
};

/// out[t, h, :] = sum_i softmax_i(scale * q[t, h] . entry_i) latent_i over the entries that t sees; zeros in the rows
/// that are not meant. One launch, without workspace.
template <typename T>
void latent_attention(T* out /* [tokens, H, L] */, const LatentRows<T>& inputs, cudaStream_t stream);

/// out = in, [tokens, width], in the rows that are meant; zeros where padding; the others are left alone.
template <typename T>
void copy_sequence_rows(T* out, const T* in, int64_t width, int64_t tokens, const SequenceRows& rows,
                        cudaStream_t stream);

/// cache[slot[t]] = (latent[t], key_rope[t]): cache [entries, L + Dr], slot [tokens], latent [tokens, L] and key_rope
/// [tokens, Dr] with ld_* elements from row to row. Slots outside the cache (-1: padding) write nothing.
template <typename T>
void write_latent_cache(T* cache, int64_t entries, const int32_t* slot, const T* latent, int64_t ld_latent,
                        int64_t latent_dim, const T* key_rope, int64_t ld_key_rope, int64_t rope_dim, int64_t tokens,
                        cudaStream_t stream);

}  // namespace deeptitan::cuda
