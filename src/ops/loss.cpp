#include "ops/loss.h"

#include "kernels/cpu/loss/cross_entropy.h"
#include "ops/op_scope.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {

void softmax_cross_entropy(ExecutionContext& ctx, const Tensor& loss, const Tensor& d_logits, const Tensor& logits,
                           const Tensor& targets, double gradient_scale) {
  const int64_t rows = logits.size(0);
  const int64_t vocab = logits.size(1);
  check_tensor(loss, "loss", DType::kF32, {rows});
  check_tensor(targets, "targets", DType::kI32, {rows});
  OpScope op(ctx, "softmax_cross_entropy", 0);
  DT_LEAVE_FOR_CUDA(softmax_cross_entropy, loss, d_logits, logits, targets, gradient_scale);
  if (!op.launch()) return;
  if (!d_logits.defined()) {
    cpu::softmax_cross_entropy(loss.host<float>(), static_cast<float*>(nullptr), 0, logits.host<float>(),
                               logits.stride(), targets.host<int32_t>(), 0.0f, rows, vocab);
  } else {
    for_activation_type("softmax_cross_entropy", d_logits, [&](auto* element) {
      using T = std::remove_pointer_t<decltype(element)>;
      cpu::softmax_cross_entropy(loss.host<float>(), d_logits.host<T>(), d_logits.stride(), logits.host<float>(),
                                 logits.stride(), targets.host<int32_t>(), static_cast<float>(gradient_scale), rows,
                                 vocab);
    });
  }
  op.check({loss, d_logits});
}

void token_logprobs(ExecutionContext& ctx, const Tensor& logprob, const Tensor& argmax, const Tensor& logits,
                    const Tensor& targets) {
  check_tensor(logprob, "logprob", DType::kF32, {logits.size(0)});
  check_tensor(targets, "targets", DType::kI32, {logits.size(0)});
  OpScope op(ctx, "token_logprobs", 0);
  DT_LEAVE_FOR_CUDA(token_logprobs, logprob, argmax, logits, targets);
  if (!op.launch()) return;
  cpu::token_logprobs(logprob.host<float>(), argmax.defined() ? argmax.host<int32_t>() : nullptr, logits.host<float>(),
                      logits.stride(), targets.host<int32_t>(), logits.size(0), logits.size(1));
}

}  // namespace deeptitan
