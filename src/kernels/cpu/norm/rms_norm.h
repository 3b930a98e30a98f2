#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

// Root-mean-square normalisation of rows (Zhang and Sennrich 2019, arXiv:1910.07467).
// All are deterministic, and a row's result does not depend on the rows beside it. Statistics and sums are float.
// ld_* is the distance between rows in elements (ld >= dim), so that a slice of columns can be given.

/// out[r] = x[r] * rstd[r] * weight with rstd[r] = 1 / sqrt(mean(x[r]^2) + epsilon).
/// out and x are [rows, dim], weight is [dim], rstd is [rows] or nullptr where backward is not wanted.
/// out may be x.
void rms_norm(float* out, int64_t ld_out, float* rstd, const float* x, int64_t ld_x, const float* weight, int64_t rows,
              int64_t dim, float epsilon);
void rms_norm(bfloat16* out, int64_t ld_out, float* rstd, const bfloat16* x, int64_t ld_x, const float* weight,
              int64_t rows, int64_t dim, float epsilon);

/// The residual addition and the norm after it in one pass, contiguous rows [rows, dim]:
/// sum_out = a + b, rounded to the element type; normed_out = rms_norm(sum_out). sum_out may be a or b.
/// rstd is [rows] or nullptr.
void add_rms_norm(float* sum_out, float* normed_out, float* rstd, const float* a, const float* b, const float* weight,
                  int64_t rows, int64_t dim, float epsilon);
void add_rms_norm(bfloat16* sum_out, bfloat16* normed_out, float* rstd, const bfloat16* a, const bfloat16* b,
                  const float* weight, int64_t rows, int64_t dim, float epsilon);

/// Gradient of rms_norm with respect to x:
/// d_x[r] = rstd[r] * (weight * d_out[r] - x[r] * rstd[r]^2 * mean(weight * d_out[r] * x[r])),
/// added to d_x where accumulate is set. d_x may be d_out.
void rms_norm_backward_input(float* d_x, int64_t ld_d_x, const float* d_out, int64_t ld_d_out, const float* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate);
void rms_norm_backward_input(bfloat16* d_x, int64_t ld_d_x, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate);

/// Floats of workspace that rms_norm_backward_weight needs.
int64_t rms_norm_backward_weight_workspace(int64_t rows, int64_t dim);

/// Gradient of rms_norm with respect to the weight: d_weight[i] += sum over r of d_out[r, i] * x[r, i] * rstd[r]
/// (= without `accumulate`). Rows are summed in chunks whose bounds depend on `rows` alone, and the chunks are added in
/// order.
void rms_norm_backward_weight(float* d_weight, const float* d_out, int64_t ld_d_out, const float* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, bool accumulate = true);
void rms_norm_backward_weight(float* d_weight, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, bool accumulate = true);

}  // namespace deeptitan::cpu
