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

/// As cpu::latent_attention. inputs.most_visible is not read. One launch, without workspace.
template <typename T>
void latent_attention(T* out, const cpu::LatentAttentionInputs<T>& inputs, cudaStream_t stream);

/// cache[slot[t]] = (latent[t], key_rope[t]): cache [entries, L + Dr], slot [tokens], latent [tokens, L] and key_rope
/// [tokens, Dr] with ld_* elements from row to row. Slots outside the cache (-1: padding) write nothing.
template <typename T>
void write_latent_cache(T* cache, int64_t entries, const int32_t* slot, const T* latent, int64_t ld_latent,
                        int64_t latent_dim, const T* key_rope, int64_t ld_key_rope, int64_t rope_dim, int64_t tokens,
                        cudaStream_t stream);

}  // namespace deeptitan::cuda
