#include "ops/optimizer.h"

#include "kernels/cuda/loss/cross_entropy.h"
#include "kernels/cuda/optimizer/adamw.h"
#include "kernels/cuda/optimizer/step_state.h"
#include "ops/cuda/element.h"

// The step state lies on the device, and is read and written there alone.

namespace deeptitan::on_cuda {

static_assert(kSquareBlocks == cuda::kSumWorkspace);

void adamw_update(ExecutionContext& ctx, const Tensor& parameter, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings, const RoundingPlace& place, const Tensor& rounded) {
  auto* in_bf16 = rounded.defined() ? rounded.raw<bfloat16>() : nullptr;
  const cpu::AdamWOptions options{settings.beta1, settings.beta2, settings.epsilon};
  if (first_moment.dtype() == DType::kF32) {
    cuda::adamw_update(parameter.raw<float>(), first_moment.raw<float>(), second_moment.raw<float>(), in_bf16,
                       gradient.raw<float>(), parameter.numel(), weight_decay, options, ctx.state, stream_of(ctx));
  } else {
    cuda::adamw_update(parameter.raw<float>(), first_moment.raw<bfloat16>(), second_moment.raw<bfloat16>(), in_bf16,
                       gradient.raw<float>(), parameter.numel(), weight_decay, options, place, ctx.state,
                       stream_of(ctx));
  }
}

// The blocks are those of what lies here: their sum is the same but for its order.
void square_sums(ExecutionContext& ctx, const Tensor& sums, const Tensor& x, const ElementRange& /*range*/) {
  if (!ctx.planning) cuda::square_sums(sums.raw<double>(), x.raw<float>(), x.numel(), stream_of(ctx));
}

void begin_step_output(ExecutionContext& ctx) {
  cuda::begin_step_output(ctx.state, stream_of(ctx));
}

void finish_gradient(ExecutionContext& ctx, const Tensor& sums, double max_norm, bool halt) {
  cuda::finish_gradient(ctx.state, sums.raw<double>(), sums.size(0), max_norm, halt, stream_of(ctx));
}

}  // namespace deeptitan::on_cuda
