#pragma once

// Attention in training on tensor cores, bf16, of the head sizes that models have; kernels/cpu/attention/attention.h
// says what each function computes. All pointers are device pointers. Deterministic, without atomics: the gradient of
// the queries and that of keys and values are two passes, each of which makes the probabilities anew. Workspace is
// linear in tokens; nothing is allocated, waited for or read back, and documents are found on the device.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cpu/attention/attention.h"

namespace deeptitan::cuda {

/// Whether these kernels take such heads and rows: nope, rope and value of 128, 64, 128 or 64, 32, 64, rows of whole 16
/// bytes, on a chip with the shared memory that a block wants.
bool tensor_core_attention_fits(const cpu::AttentionInputs<bfloat16>& inputs);

/// As cuda::attention_forward and attention_backward (kernels/cuda/attention/attention.h), with the same workspace.
void tensor_core_attention_forward(bfloat16* out, float* log_sum_exp, const cpu::AttentionInputs<bfloat16>& inputs,
                                   int64_t tokens, cudaStream_t stream);
void tensor_core_attention_backward(const cpu::AttentionGradients<bfloat16>& gradients, const bfloat16* d_out,
                                    const bfloat16* out, const float* log_sum_exp,
                                    const cpu::AttentionInputs<bfloat16>& inputs, int64_t tokens, void* workspace,
                                    cudaStream_t stream);

}  // namespace deeptitan::cuda
