#include "ops/mixture.h"

#include "kernels/cuda/experts/few_tokens.h"
#include "kernels/cuda/kernel_choice.h"
#include "ops/cuda/element.h"

namespace deeptitan::on_cuda {
namespace {

cuda::FewTokensMixture mixture_of(const Tensor& x, const MixtureWeights& w, const RouterOptions& options) {
  cuda::FewTokensMixture m{.x = x.raw<bfloat16>(),
                           .tokens = x.size(0),
                           .hidden = x.size(1),
                           .router = w.router->forward.raw<float>(),
                           .experts = options.experts,
                           .top_k = options.top_k,
                           .gate_up = w.gate_up->forward.raw<bfloat16>(),
                           .down = w.down->forward.raw<bfloat16>(),
                           .width = w.down->inputs};
  if (w.shared_gate_up == nullptr) return m;
  m.shared_gate_up = w.shared_gate_up->forward.raw<bfloat16>();
  m.shared_down = w.shared_down->forward.raw<bfloat16>();
  m.shared_width = w.shared_down->inputs;
  return m;
}

}  // namespace

bool mixture_of_few_fits(const Tensor& x, const MixtureWeights& w, const RouterOptions& options) {
  const auto rows_in_bf16 = [](const PreparedWeight* weight) {
    return weight == nullptr || weight->format == WeightFormat::kRowsBf16;
  };
  return !cuda::plain_kernels_wanted() && x.dtype() == DType::kBF16 && x.contiguous() &&
         w.router->format == WeightFormat::kRowsF32 && rows_in_bf16(w.gate_up) && rows_in_bf16(w.down) &&
         rows_in_bf16(w.shared_gate_up) && rows_in_bf16(w.shared_down) &&
         w.gate_up->strategy != GroupedGemmStrategy::kLoop && cuda::few_tokens_mixture_fits(mixture_of(x, w, options));
}

void mixture_of_few(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const Tensor& residual,
                    const Routing& routing, const MixtureWeights& w, const RouterOptions& options) {
  cuda::FewTokensMixture m = mixture_of(x, w, options);
  ArenaScope workspace(*ctx.workspace);
  const Tensor logits = workspace.take(DType::kF32, {m.tokens, m.experts});
  const Tensor activated = workspace.take(DType::kBF16, {m.tokens * m.top_k, m.width});
  const Tensor shared = workspace.take(DType::kBF16, {m.tokens, m.shared_width});
  const Tensor shared_result = workspace.take(DType::kBF16, {m.tokens, m.shared_width > 0 ? m.hidden : 0});
  m.out = out.raw<bfloat16>();
  m.residual = residual.raw<bfloat16>();
  m.logits = logits.raw<float>();
  m.expert_index = routing.expert_index.raw<int32_t>();
  m.expert_weight = routing.expert_weight.raw<float>();
  m.activated = activated.raw<bfloat16>();
  m.shared_activated = shared.raw<bfloat16>();
  m.shared_result = shared_result.raw<bfloat16>();
  if (!ctx.planning) cuda::few_tokens_logits(m, stream_of(ctx));
  on_cuda::route(ctx, routing, logits, w.bias, options);
  if (!ctx.planning) cuda::few_tokens_experts(m, stream_of(ctx));
}

}  // namespace deeptitan::on_cuda
