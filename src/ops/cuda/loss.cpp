#include "kernels/cuda/loss/cross_entropy.h"

#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {

void softmax_cross_entropy(ExecutionContext& ctx, const Tensor& loss, const Tensor& d_logits, const Tensor& logits,
                           const Tensor& targets, double gradient_scale) {
  if (ctx.planning) return;
  const auto launch = [&](auto* d, int64_t ld) {
    cuda::softmax_cross_entropy(loss.raw<float>(), d, ld, logits.raw<float>(), logits.stride(), targets.raw<int32_t>(),
                                static_cast<float>(gradient_scale), logits.size(0), logits.size(1), stream_of(ctx));
  };
  if (!d_logits.defined()) return launch(static_cast<float*>(nullptr), 0);
  for_activation_type(d_logits,
                      [&](auto* element) { launch(d_logits.raw<Element<decltype(element)>>(), d_logits.stride()); });
}

void token_logprobs(ExecutionContext& ctx, const Tensor& logprob, const Tensor& argmax, const Tensor& logits,
                    const Tensor& targets) {
  if (ctx.planning) return;
  cuda::token_logprobs(logprob.raw<float>(), raw_or_null<int32_t>(argmax), logits.raw<float>(), logits.stride(),
                       targets.raw<int32_t>(), logits.size(0), logits.size(1), stream_of(ctx));
}

}  // namespace deeptitan::on_cuda
