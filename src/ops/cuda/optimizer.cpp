#include "core/cuda_device.h"
#include "kernels/cuda/loss/cross_entropy.h"
#include "kernels/cuda/optimizer/adamw.h"
#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {
namespace {

/// sum(result, values, count, workspace, stream) brought to the host.
template <typename Sum>
double sum_on_host(ExecutionContext& ctx, const Tensor& x, const Sum& sum) {
  ArenaScope workspace(*ctx.workspace);
  double* partial = static_cast<double*>(workspace.take_bytes((cuda::kSumWorkspace + 1) * sizeof(double)));
  if (ctx.planning) return 0;
  double* result = partial + cuda::kSumWorkspace;
  sum(result, x.raw<float>(), x.numel(), partial, stream_of(ctx));
  double value = 0;
  cuda::copy(&value, result, sizeof value);
  return value;
}

}  // namespace

void adamw_update(ExecutionContext& ctx, const Tensor& parameter, const Tensor& first_moment,
                  const Tensor& second_moment, const Tensor& gradient, double weight_decay,
                  const AdamWSettings& settings) {
  if (ctx.planning || ctx.state->valid == 0) return;
  cuda::adamw_update(parameter.raw<float>(), first_moment.raw<float>(), second_moment.raw<float>(),
                     gradient.raw<float>(), parameter.numel(), ctx.state->learning_rate, weight_decay,
                     ctx.state->gradient_scale, ctx.state->step,
                     cpu::AdamWOptions{settings.beta1, settings.beta2, settings.epsilon}, stream_of(ctx));
}

double sum_of_squares(ExecutionContext& ctx, const Tensor& x) {
  return sum_on_host(ctx, x, cuda::sum_of_squares);
}

double sum_fixed_order(ExecutionContext& ctx, const Tensor& x) {
  return sum_on_host(ctx, x, cuda::sum_fixed_order);
}

}  // namespace deeptitan::on_cuda
