#include "ops/sampling.h"

#include "kernels/cuda/sampling/choose_tokens.h"
#include "ops/cuda/element.h"

namespace deeptitan::on_cuda {

void choose_tokens(ExecutionContext& ctx, const Tensor& chosen, const Tensor& logits, const Tensor& choices,
                   const Tensor& allowed, const Tensor& earlier) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(cuda::choose_tokens_workspace(logits.size(0), logits.size(1)));
  if (ctx.planning) return;
  cuda::choose_tokens(chosen.raw<int32_t>(),
                      {.logits = logits.raw<float>(),
                       .stride = logits.stride(),
                       .choices = reinterpret_cast<const TokenChoice*>(choices.raw<uint32_t>()),
                       .allowed = allowed.raw<uint32_t>(),
                       .earlier = earlier.defined() ? earlier.raw<uint32_t>() : nullptr,
                       .vocab = logits.size(1)},
                      logits.size(0), scratch, stream_of(ctx));
}

}  // namespace deeptitan::on_cuda
