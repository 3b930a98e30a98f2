#include "ops/expert_load.h"

namespace deeptitan {

void summarise_expert_load(ExecutionContext& ctx, const Tensor& summary, const Tensor& load, const Tensor& bias) {
  check_tensor(summary, "summarise_expert_load: summary", DType::kF64, {kLoadSummaryNumbers});
  check_tensor(load, "summarise_expert_load: load", DType::kI32, {-1});
  if (bias.defined()) check_tensor(bias, "summarise_expert_load: bias", DType::kF32, {load.size(0)});
  OpScope op(ctx, "summarise_expert_load", {&summary}, {&load, &bias});
  op.run(on_cpu::summarise_expert_load, DT_ON_CUDA(summarise_expert_load), summary, load, bias);
}

}  // namespace deeptitan
