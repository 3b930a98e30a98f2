#include "ops/expert_load.h"

#include <vector>

#include "kernels/cpu/router/balance.h"
#include "ops/cuda/element.h"

namespace deeptitan::on_cuda {

void summarise_expert_load(ExecutionContext& ctx, const Tensor& summary, const Tensor& load, const Tensor& bias) {
  std::vector<int32_t> loads(load.numel());
  std::vector<float> biases(bias.defined() ? bias.numel() : 0);
  ctx.compute.copy(loads.data(), load.raw(), load.bytes());
  if (bias.defined()) ctx.compute.copy(biases.data(), bias.raw(), bias.bytes());
  ctx.compute.synchronize();
  const cpu::LoadRange range = cpu::load_range(loads.data(), bias.defined() ? biases.data() : nullptr, load.numel());
  const double numbers[kLoadSummaryNumbers] = {static_cast<double>(range.largest), static_cast<double>(range.whole),
                                               static_cast<double>(range.idle), range.lowest_bias, range.highest_bias};
  ctx.compute.copy(summary.raw(), numbers, sizeof numbers);
  ctx.compute.synchronize();
}

}  // namespace deeptitan::on_cuda
