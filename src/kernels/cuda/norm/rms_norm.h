#pragma once

// Root-mean-square normalisation on the GPU, any size; kernels/cpu/norm/rms_norm.h says what each function computes.
// All pointers are device pointers. Deterministic; nothing is allocated, waited for or read back. A row's result does
// not depend on the rows beside it.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// As cpu::rms_norm.
void rms_norm(float* out, int64_t ld_out, float* rstd, const float* x, int64_t ld_x, const float* weight, int64_t rows,
              int64_t dim, float epsilon, cudaStream_t stream);
void rms_norm(bfloat16* out, int64_t ld_out, float* rstd, const bfloat16* x, int64_t ld_x, const float* weight,
              int64_t rows, int64_t dim, float epsilon, cudaStream_t stream);

/// As cpu::add_rms_norm.
void add_rms_norm(float* sum_out, float* normed_out, float* rstd, const float* a, const float* b, const float* weight,
                  int64_t rows, int64_t dim, float epsilon, cudaStream_t stream);
void add_rms_norm(bfloat16* sum_out, bfloat16* normed_out, float* rstd, const bfloat16* a, const bfloat16* b,
                  const float* weight, int64_t rows, int64_t dim, float epsilon, cudaStream_t stream);

/// As cpu::rms_norm_backward_input.
void rms_norm_backward_input(float* d_x, int64_t ld_d_x, const float* d_out, int64_t ld_d_out, const float* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate, cudaStream_t stream);
void rms_norm_backward_input(bfloat16* d_x, int64_t ld_d_x, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate, cudaStream_t stream);

/// Floats of workspace that rms_norm_backward_weight needs.
int64_t rms_norm_backward_weight_workspace(int64_t rows, int64_t dim);

/// As cpu::rms_norm_backward_weight, two launches.
void rms_norm_backward_weight(float* d_weight, const float* d_out, int64_t ld_d_out, const float* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, cudaStream_t stream);
void rms_norm_backward_weight(float* d_weight, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
