#pragma once

// The losses on the GPU, any size; kernels/cpu/loss/cross_entropy.h says what each function computes. All pointers are
// device pointers. Deterministic; nothing is allocated, waited for or read back. A target outside the vocabulary cannot
// be reported from here: its row's loss becomes NaN.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// As cpu::softmax_cross_entropy; a float d_logits may be logits. *grad_scale is rounded to float, and read only where
/// d_logits is not null.
void softmax_cross_entropy(float* loss, float* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, const double* grad_scale, int64_t rows, int64_t vocab,
                           cudaStream_t stream);
void softmax_cross_entropy(float* loss, bfloat16* d_logits, int64_t ld_d_logits, const float* logits, int64_t ld_logits,
                           const int32_t* targets, const double* grad_scale, int64_t rows, int64_t vocab,
                           cudaStream_t stream);

/// As cpu::token_logprobs; argmax may be null.
void token_logprobs(float* logprob, int32_t* argmax, const float* logits, int64_t ld_logits, const int32_t* targets,
                    int64_t rows, int64_t vocab, cudaStream_t stream);

/// Doubles of workspace that add_sum_fixed_order needs, and the numbers of square_sums.
inline constexpr int64_t kSumWorkspace = 256;

/// *sum += the sum of x [n], in double and in an order that n alone decides. Two launches.
void add_sum_fixed_order(double* sum, const float* x, int64_t n, double* workspace, cudaStream_t stream);

/// sums[b] = the sum of x[i]^2 over the b-th of kSumWorkspace parts of x [n]. One launch.
void square_sums(double* sums, const float* x, int64_t n, cudaStream_t stream);

}  // namespace deeptitan::cuda
