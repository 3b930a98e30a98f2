#include "ops/optimizer.h"

#include <vector>

#include "kernels/cpu/optimizer/gradient_norm.h"
#include "kernels/cuda/loss/cross_entropy.h"
#include "kernels/cuda/optimizer/adamw.h"
#include "kernels/step_math.h"
#include "ops/cuda/element.h"

// The step state lies on the device; what decides a step is worked out by the host, which waits for it.

namespace deeptitan::on_cuda {

static_assert(kSquareBlocks == cuda::kSumWorkspace);

void adamw_update(ExecutionContext& ctx, const Tensor& parameter, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings) {
  const StepState state = fetch(ctx, ctx.state);
  if (state.out.valid == 0) return;
  cuda::adamw_update(parameter.raw<float>(), first_moment.raw<float>(), second_moment.raw<float>(),
                     gradient.raw<float>(), parameter.numel(), state.in.learning_rate, weight_decay, state.out.clip,
                     state.out.updates, cpu::AdamWOptions{settings.beta1, settings.beta2, settings.epsilon},
                     stream_of(ctx));
}

// The blocks are those of what lies here: their sum is the same but for its order.
void square_sums(ExecutionContext& ctx, const Tensor& sums, const Tensor& x, const ElementRange& /*range*/) {
  ArenaScope workspace(*ctx.workspace);
  auto* total = static_cast<double*>(workspace.take_bytes(sizeof(double)));
  if (!ctx.planning) cuda::sum_of_squares(total, x.raw<float>(), x.numel(), sums.raw<double>(), stream_of(ctx));
}

void begin_step_output(ExecutionContext& ctx) {
  StepOutput out = fetch(ctx, &ctx.state->out);
  begin_output(out);
  store(ctx, &ctx.state->out, out);
}

void finish_gradient(ExecutionContext& ctx, const Tensor& sums, double max_norm, bool halt) {
  std::vector<double> on_host(sums.numel());
  ctx.compute.copy(on_host.data(), sums.raw(), sums.bytes());
  StepState state = fetch(ctx, ctx.state);
  state.out.gradient_squares = cpu::add_square_sums(on_host.data(), sums.size(0));
  decide_step(state, max_norm, halt);
  store(ctx, ctx.state, state);
}

}  // namespace deeptitan::on_cuda
