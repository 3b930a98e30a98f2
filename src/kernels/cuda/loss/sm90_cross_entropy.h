#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda::sm90 {

/// Rows of softmax_cross_entropy, kernels/cuda/loss/cross_entropy.h; d_logits may be null.
template <typename T>
struct CrossEntropyRows {
  float* loss;
  T* d_logits;
  int64_t ld_d_logits;
  const float* logits;
  int64_t ld_logits;
  const int32_t* targets;
  const double* grad_scale;
  int64_t rows;
  int64_t vocab;
};

/// Whether a cluster's shared memory holds a row: long rows, of whole words of 16 bytes, on a chip of compute
/// capability 9.0. It does not depend on how many rows there are.
template <typename T>
bool can_hold_rows(const CrossEntropyRows<T>& r);

/// As softmax_cross_entropy, for rows of which can_hold_rows is true: each logit is read once. Deterministic; one
/// launch.
template <typename T>
void cross_entropy_of_held_rows(const CrossEntropyRows<T>& r, cudaStream_t stream);

}  // namespace deeptitan::cuda::sm90
