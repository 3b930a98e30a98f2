#include "ops/loss.h"

#include "core/error.h"

namespace deeptitan {

void softmax_cross_entropy(ExecutionContext& ctx, const Tensor& loss, const Tensor& d_logits, const Tensor& logits,
                           const Tensor& targets, const double* gradient_scale) {
  const int64_t rows = logits.size(0);
  check_tensor(logits, "softmax_cross_entropy: logits", DType::kF32, {-1, -1});
  check_tensor(loss, "softmax_cross_entropy: loss", DType::kF32, {rows});
  check_tensor(targets, "softmax_cross_entropy: targets", DType::kI32, {rows});
  if (d_logits.defined()) {
    DT_CHECK(gradient_scale != nullptr, "softmax_cross_entropy: a gradient needs its scale");
    check_activation_type("softmax_cross_entropy: d_logits", d_logits);
    check_tensor(d_logits, "softmax_cross_entropy: d_logits", d_logits.dtype(), {rows, logits.size(1)});
  }
  OpScope op(ctx, "softmax_cross_entropy", {&loss, &d_logits}, {&logits, &targets});
  op.run(on_cpu::softmax_cross_entropy, DT_ON_CUDA(softmax_cross_entropy), loss, d_logits, logits, targets,
         gradient_scale);
}

void token_logprobs(ExecutionContext& ctx, const Tensor& logprob, const Tensor& argmax, const Tensor& logits,
                    const Tensor& targets) {
  check_tensor(logits, "token_logprobs: logits", DType::kF32, {-1, -1});
  check_tensor(logprob, "token_logprobs: logprob", DType::kF32, {logits.size(0)});
  check_tensor(targets, "token_logprobs: targets", DType::kI32, {logits.size(0)});
  if (argmax.defined()) check_tensor(argmax, "token_logprobs: argmax", DType::kI32, {logits.size(0)});
  OpScope op(ctx, "token_logprobs", {&logprob, &argmax}, {&logits, &targets});
  op.run(on_cpu::token_logprobs, DT_ON_CUDA(token_logprobs), logprob, argmax, logits, targets);
}

void accumulate_sum(ExecutionContext& ctx, const Tensor& sum, const Tensor& x) {
  check_tensor(sum, "accumulate_sum: sum", DType::kF64, {1});
  check_tensor(x, "accumulate_sum: x", DType::kF32, {-1});
  check_contiguous("accumulate_sum", {x});
  OpScope op(ctx, "accumulate_sum", {&sum}, {&x});
  op.run_with_workspace(on_cpu::accumulate_sum, DT_ON_CUDA(accumulate_sum), sum, x);
}

}  // namespace deeptitan
