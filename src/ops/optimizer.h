#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"

namespace deeptitan {

struct AdamWSettings {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
};

/// One AdamW step (Loshchilov and Hutter 2019) of one parameter: step number, learning rate and gradient scale come
/// from the StepState; nothing happens where that is not valid.
void adamw_update(ExecutionContext& ctx, const Tensor& parameter /* f32 [...] */, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings);

/// The sum of squares of a contiguous fp32 tensor, in a fixed order.
double sum_of_squares(ExecutionContext& ctx, const Tensor& x);

/// The sum of a contiguous fp32 vector, in a fixed order.
double sum_fixed_order(ExecutionContext& ctx, const Tensor& x);

}  // namespace deeptitan
