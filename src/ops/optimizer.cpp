#include "ops/optimizer.h"

#include "core/error.h"
#include "kernels/cpu/loss/cross_entropy.h"
#include "kernels/cpu/optimizer/adamw.h"
#include "ops/op_scope.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {

void adamw_update(ExecutionContext& ctx, const Tensor& parameter, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings) {
  for (const Tensor* t : {&first_moment, &second_moment, &gradient}) {
    DT_CHECK(t->same_shape(parameter), "adamw_update: {} for a parameter {}", t->describe(), parameter.describe());
  }
  check_contiguous("adamw_update", {parameter, first_moment, second_moment, gradient});
  OpScope op(ctx, "adamw_update", 0);
  DT_LEAVE_FOR_CUDA(adamw_update, parameter, first_moment, second_moment, gradient, weight_decay, settings);
  if (!op.launch() || ctx.state->valid == 0) return;
  cpu::adamw_update(parameter.host<float>(), first_moment.host<float>(), second_moment.host<float>(),
                    gradient.host<float>(), parameter.numel(), ctx.state->learning_rate, weight_decay,
                    ctx.state->gradient_scale, ctx.state->step,
                    cpu::AdamWOptions{settings.beta1, settings.beta2, settings.epsilon});
  op.check({parameter});
}

double sum_of_squares(ExecutionContext& ctx, const Tensor& x) {
  OpScope op(ctx, "sum_of_squares", 0);
  DT_LEAVE_FOR_CUDA(sum_of_squares, x);
  return op.launch() ? cpu::sum_of_squares(x.host<float>(), x.numel()) : 0.0;
}

double sum_fixed_order(ExecutionContext& ctx, const Tensor& x) {
  OpScope op(ctx, "sum_fixed_order", 0);
  DT_LEAVE_FOR_CUDA(sum_fixed_order, x);
  return op.launch() ? cpu::sum_fixed_order(x.host<float>(), x.numel()) : 0.0;
}

}  // namespace deeptitan
