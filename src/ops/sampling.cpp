#include "ops/sampling.h"

#include "core/error.h"

namespace deeptitan {

void choose_tokens(ExecutionContext& ctx, const Tensor& chosen, const Tensor& logits, const Tensor& choices,
                   const Tensor& allowed, const Tensor& earlier) {
  check_tensor(logits, "choose_tokens: logits", DType::kF32, {-1, -1});
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  check_tensor(chosen, "choose_tokens: chosen", DType::kI32, {rows});
  check_tensor(choices, "choose_tokens: choices", DType::kI32, {rows, kChoiceWords});
  check_tensor(allowed, "choose_tokens: allowed", DType::kI32, {choice_words(vocab)});
  if (earlier.defined()) check_tensor(earlier, "choose_tokens: earlier", DType::kI32, {rows, choice_words(vocab)});
  check_contiguous("choose_tokens", {chosen, choices, allowed});
  if (earlier.defined()) check_contiguous("choose_tokens", {earlier});
  OpScope op(ctx, "choose_tokens", {&chosen}, {&logits, &choices, &allowed, &earlier});
  op.run_with_workspace(on_cpu::choose_tokens, DT_ON_CUDA(choose_tokens), chosen, logits, choices, allowed, earlier);
}

}  // namespace deeptitan
