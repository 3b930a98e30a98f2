#include "ops/expert_load.h"

#include "kernels/cuda/router/balance.h"
#include "ops/cuda/element.h"

namespace deeptitan::on_cuda {

static_assert(kLargestLoad == 0 && kWholeLoad == 1 && kIdleExperts == 2 && kLowestBias == 3 && kHighestBias == 4);

void summarise_expert_load(ExecutionContext& ctx, const Tensor& summary, const Tensor& load, const Tensor& bias) {
  cuda::summarise_load(summary.raw<double>(), load.raw<int32_t>(), raw_or_null<float>(bias), load.numel(),
                       stream_of(ctx));
}

}  // namespace deeptitan::on_cuda
