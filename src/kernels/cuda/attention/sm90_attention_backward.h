#pragma once

// The backward of attention in training on Hopper: bf16, heads of 192 (nope 128, rope 64) and 128. One pass over tiles
// of keys makes all gradients; the queries' are added up in workspace in a fixed order. A document's gradients do not
// depend on what it is packed with. All pointers are device pointers; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cpu/attention/attention.h"

namespace deeptitan::cuda {

/// Whether the kernel takes heads of these widths: what workspace is planned by, on whatever chip.
bool sm90_attention_backward_takes(int64_t nope_dim, int64_t rope_dim, int64_t value_dim);

/// Whether it takes these heads and rows, on this chip.
bool sm90_attention_backward_fits(const cpu::AttentionInputs<bfloat16>& inputs);

/// Bytes of workspace: linear in tokens, whatever the documents.
int64_t sm90_attention_backward_workspace(int64_t tokens, int64_t heads);

/// As cuda::attention_backward (kernels/cuda/attention/attention.h); `workspace` a multiple of 256.
void sm90_attention_backward(const cpu::AttentionGradients<bfloat16>& gradients, const bfloat16* d_out,
                             const bfloat16* out, const float* log_sum_exp,
                             const cpu::AttentionInputs<bfloat16>& inputs, int64_t tokens, void* workspace,
                             cudaStream_t stream);

}  // namespace deeptitan::cuda
