#include "ops/optimizer.h"

#include "kernels/cpu/elementwise/elementwise.h"
#include "kernels/cpu/optimizer/adamw.h"
#include "kernels/cpu/optimizer/gradient_norm.h"
#include "kernels/step_math.h"

namespace deeptitan::on_cpu {

void adamw_update(ExecutionContext& ctx, const Tensor& parameter, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings, const RoundingPlace& place, const Tensor& rounded) {
  const StepState& state = *ctx.state;
  if (state.out.valid == 0) return;
  const cpu::AdamWOptions options{settings.beta1, settings.beta2, settings.epsilon};
  if (first_moment.dtype() == DType::kF32) {
    cpu::adamw_update(parameter.host<float>(), first_moment.host<float>(), second_moment.host<float>(),
                      gradient.host<float>(), parameter.numel(), state.in.learning_rate, weight_decay, state.out.clip,
                      state.out.updates, options);
  } else {
    cpu::adamw_update(parameter.host<float>(), first_moment.host<bfloat16>(), second_moment.host<bfloat16>(),
                      gradient.host<float>(), parameter.numel(), state.in.learning_rate, weight_decay, state.out.clip,
                      state.out.updates, options, place);
  }
  if (rounded.defined()) cpu::convert(rounded.host<bfloat16>(), parameter.host<float>(), parameter.numel());
}

void square_sums(ExecutionContext& ctx, const Tensor& sums, const Tensor& x, const ElementRange& range) {
  if (!ctx.planning) cpu::square_sums(sums.host<double>(), x.host<float>(), x.numel(), range.first, range.whole);
}

void begin_step_output(ExecutionContext& ctx) {
  begin_output(ctx.state->out);
}

void finish_gradient(ExecutionContext& ctx, const Tensor& sums, double max_norm, bool halt) {
  ctx.state->out.gradient_squares = cpu::add_square_sums(sums.host<double>(), sums.size(0));
  decide_step(*ctx.state, max_norm, halt);
}

}  // namespace deeptitan::on_cpu
