#include "kernels/cuda/loss/cross_entropy.h"

#include "ops/cuda/element.h"
#include "ops/loss.h"

namespace deeptitan::on_cuda {

void softmax_cross_entropy(ExecutionContext& ctx, const Tensor& loss, const Tensor& d_logits, const Tensor& logits,
                           const Tensor& targets, const double* gradient_scale) {
  const auto launch = [&](auto* d, int64_t ld) {
    cuda::softmax_cross_entropy(loss.raw<float>(), d, ld, logits.raw<float>(), logits.stride(), targets.raw<int32_t>(),
                                gradient_scale, logits.size(0), logits.size(1), stream_of(ctx));
  };
  if (!d_logits.defined()) return launch(static_cast<float*>(nullptr), 0);
  for_activation_type(d_logits,
                      [&](auto* element) { launch(d_logits.raw<Element<decltype(element)>>(), d_logits.stride()); });
}

void token_logprobs(ExecutionContext& ctx, const Tensor& logprob, const Tensor& argmax, const Tensor& logits,
                    const Tensor& targets) {
  cuda::token_logprobs(logprob.raw<float>(), raw_or_null<int32_t>(argmax), logits.raw<float>(), logits.stride(),
                       targets.raw<int32_t>(), logits.size(0), logits.size(1), stream_of(ctx));
}

void accumulate_sum(ExecutionContext& ctx, const Tensor& sum, const Tensor& x) {
  ArenaScope workspace(*ctx.workspace);
  auto* partial = static_cast<double*>(workspace.take_bytes(cuda::kSumWorkspace * sizeof(double)));
  if (ctx.planning) return;
  cuda::add_sum_fixed_order(sum.raw<double>(), x.raw<float>(), x.numel(), partial, stream_of(ctx));
}

}  // namespace deeptitan::on_cuda
