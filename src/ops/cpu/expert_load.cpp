#include "ops/expert_load.h"

#include "kernels/cpu/router/balance.h"

namespace deeptitan::on_cpu {

void summarise_expert_load(ExecutionContext& /*ctx*/, const Tensor& summary, const Tensor& load, const Tensor& bias) {
  const cpu::LoadRange range = cpu::load_range(load.host<int32_t>(), host_or_null(bias), load.size(0));
  double* numbers = summary.host<double>();
  numbers[kLargestLoad] = static_cast<double>(range.largest);
  numbers[kWholeLoad] = static_cast<double>(range.whole);
  numbers[kIdleExperts] = static_cast<double>(range.idle);
  numbers[kLowestBias] = static_cast<double>(range.lowest_bias);
  numbers[kHighestBias] = static_cast<double>(range.highest_bias);
}

}  // namespace deeptitan::on_cpu
