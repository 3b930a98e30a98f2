#include "ops/loss.h"

#include "kernels/cpu/loss/cross_entropy.h"

namespace deeptitan::on_cpu {

void softmax_cross_entropy(ExecutionContext& /*ctx*/, const Tensor& loss, const Tensor& d_logits, const Tensor& logits,
                           const Tensor& targets, const double* gradient_scale) {
  const int64_t rows = logits.size(0);
  const int64_t vocab = logits.size(1);
  if (!d_logits.defined()) {
    cpu::softmax_cross_entropy(loss.host<float>(), static_cast<float*>(nullptr), 0, logits.host<float>(),
                               logits.stride(), targets.host<int32_t>(), 0.0f, rows, vocab);
    return;
  }
  for_activation_type(d_logits, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::softmax_cross_entropy(loss.host<float>(), d_logits.host<T>(), d_logits.stride(), logits.host<float>(),
                               logits.stride(), targets.host<int32_t>(), static_cast<float>(*gradient_scale), rows,
                               vocab);
  });
}

void token_logprobs(ExecutionContext& /*ctx*/, const Tensor& logprob, const Tensor& argmax, const Tensor& logits,
                    const Tensor& targets) {
  cpu::token_logprobs(logprob.host<float>(), argmax.defined() ? argmax.host<int32_t>() : nullptr, logits.host<float>(),
                      logits.stride(), targets.host<int32_t>(), logits.size(0), logits.size(1));
}

void accumulate_sum(ExecutionContext& ctx, const Tensor& sum, const Tensor& x) {
  if (!ctx.planning) *sum.host<double>() += cpu::sum_fixed_order(x.host<float>(), x.numel());
}

}  // namespace deeptitan::on_cpu
