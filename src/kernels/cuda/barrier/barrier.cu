#include "kernels/cuda/barrier/barrier.cuh"
#include "kernels/cuda/barrier/launch.h"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

template <BarrierOrder kOrder>
__global__ void barrier_ranks_kernel(const __grid_constant__ BarrierArguments arguments) {
  barrier_block<kOrder>(arguments);
}

}  // namespace

void launch_barrier_ranks(const BarrierArguments& arguments, BarrierOrder order, cudaStream_t stream) {
  const int threads = (arguments.window.n_ranks + 31) / 32 * 32;
  if (order == BarrierOrder::kAcquireRelease) {
    barrier_ranks_kernel<BarrierOrder::kAcquireRelease><<<1, threads, 0, stream>>>(arguments);
  } else {
    barrier_ranks_kernel<BarrierOrder::kRelaxed><<<1, threads, 0, stream>>>(arguments);
  }
  check_launch("barrier_ranks_kernel");
}

}  // namespace deeptitan::cuda
