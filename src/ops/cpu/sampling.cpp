#include "ops/sampling.h"

#include "kernels/cpu/sampling/choose_tokens.h"

namespace deeptitan::on_cpu {

void choose_tokens(ExecutionContext& ctx, const Tensor& chosen, const Tensor& logits, const Tensor& choices,
                   const Tensor& allowed, const Tensor& earlier) {
  if (ctx.planning) return;
  cpu::choose_tokens(chosen.host<int32_t>(), logits.host<float>(), logits.stride(),
                     reinterpret_cast<const TokenChoice*>(choices.host<uint32_t>()), allowed.host<uint32_t>(),
                     earlier.defined() ? earlier.host<uint32_t>() : nullptr, logits.size(0), logits.size(1));
}

}  // namespace deeptitan::on_cpu
