#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/op_scope.h"

// Root-mean-square normalisation (Zhang and Sennrich 2019). T rows, D columns. x may be a slice of columns.

namespace deeptitan {

/// out = x / sqrt(mean(x^2) + epsilon) * weight. rstd keeps the reciprocal root for the backward; undefined: not
/// wanted.
void rms_norm(ExecutionContext& ctx, const Tensor& out /* [T, D] */, const Tensor& rstd /* f32 [T] */,
              const Tensor& x /* [T, D] */, const Tensor& weight /* f32 [D] */, double epsilon);

/// sum = a + b, out = rms_norm(sum), in one pass over contiguous rows.
void add_rms_norm(ExecutionContext& ctx, const Tensor& sum /* [T, D] */, const Tensor& out /* [T, D] */,
                  const Tensor& rstd /* f32 [T] */, const Tensor& a /* [T, D] */, const Tensor& b /* [T, D] */,
                  const Tensor& weight /* f32 [D] */, double epsilon);

/// The gradient of the input: written to d_x, or added to it.
void rms_norm_backward_input(ExecutionContext& ctx, const Tensor& d_x /* [T, D] */, const Tensor& d_out /* [T, D] */,
                             const Tensor& x /* [T, D] */, const Tensor& rstd /* f32 [T] */,
                             const Tensor& weight /* f32 [D] */, bool accumulate);

/// d_weight += the gradient of the weight; = without `accumulate`.
void rms_norm_backward_weight(ExecutionContext& ctx, const Tensor& d_weight /* f32 [D] */,
                              const Tensor& d_out /* [T, D] */, const Tensor& x /* [T, D] */,
                              const Tensor& rstd /* f32 [T] */, bool accumulate);

DT_OP_FORMS(rms_norm);
DT_OP_FORMS(add_rms_norm);
DT_OP_FORMS(rms_norm_backward_input);
DT_OP_FORMS(rms_norm_backward_weight);

}  // namespace deeptitan
