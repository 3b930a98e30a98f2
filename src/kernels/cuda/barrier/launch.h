#pragma once

#include "kernels/cuda/barrier/barrier.h"

namespace deeptitan::cuda {

/// barrier_ranks without its checks, for more than one rank.
void launch_barrier_ranks(const BarrierArguments& arguments, BarrierOrder order, cudaStream_t stream);

}  // namespace deeptitan::cuda
