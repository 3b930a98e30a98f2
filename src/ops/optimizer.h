#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "kernels/square_blocks.h"
#include "kernels/stochastic_rounding.h"
#include "ops/op_scope.h"

namespace deeptitan {

struct AdamWSettings {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
};

/// One AdamW step (Loshchilov and Hutter 2019) of one parameter. Learning rate, clipping and the number of applied
/// updates come from the step state; nothing happens where the step is not valid. Both moments are of one type; those
/// in bf16 are rounded at random by `place`, which says what elements these are, and by the number of the update.
/// `rounded`, where it is defined, becomes the new parameter in bf16, as products want it.
void adamw_update(ExecutionContext& ctx, const Tensor& parameter /* f32 [n] */,
                  const Tensor& first_moment /* f32 or bf16 [n] */, const Tensor& second_moment /* [n] */,
                  const Tensor& gradient /* f32 [n] */, double weight_decay, const AdamWSettings& settings,
                  const RoundingPlace& place, const Tensor& rounded = {} /* bf16 [n] */);

/// Which elements of a parameter a tensor has.
struct ElementRange {
  int64_t first = 0;
  int64_t whole = 0;  // elements of the parameter
};

/// sums[b] = the sum of squares over what x has of block b of the parameter.
void square_sums(ExecutionContext& ctx, const Tensor& sums /* f64 [kSquareBlocks] */, const Tensor& x /* f32 [n] */,
                 const ElementRange& range);

/// Begins a step: its sums are zero and it is valid; what is sticky in the step state stays.
void begin_step_output(ExecutionContext& ctx);

/// Ends the backward of a step: adds up the squares of all parameters in order, and decides in the step state whether
/// the step is valid, its clipping, and the count of applied updates. A step is not valid where a loss or the norm is
/// not finite, rows overflowed, or the run is halted. Rows that overflowed halt the run; with `halt` any step that is
/// not valid does.
void finish_gradient(ExecutionContext& ctx, const Tensor& sums /* f64 [parameters, kSquareBlocks] */, double max_norm,
                     bool halt);

DT_OP_FORMS(adamw_update);
DT_OP_FORMS(square_sums);
DT_OP_FORMS(begin_step_output);
DT_OP_FORMS(finish_gradient);

}  // namespace deeptitan
