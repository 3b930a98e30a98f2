#include "kernels/cuda/all_to_all/exchange.cuh"
#include "kernels/cuda/all_to_all/launch.h"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 512;
/// 128 KiB of a block's shared memory, three quarters of it being loaded.
using Ring = BulkRing<16384, 8, 6>;

template <typename RingType>
__global__ void __launch_bounds__(kThreads, 1)
    all_to_all_v_kernel(const __grid_constant__ AllToAllArguments arguments) {
  extern __shared__ __align__(128) char shared[];
  exchange_block<RingType>(arguments, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), shared);
}

}  // namespace

void launch_all_to_all_v(const AllToAllArguments& arguments, int blocks, bool bulk, cudaStream_t stream) {
  if (bulk) {
    DT_CUDA_CHECK(cudaFuncSetAttribute(all_to_all_v_kernel<Ring>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(Ring::kBytes)));
    all_to_all_v_kernel<Ring><<<blocks, kThreads, Ring::kBytes, stream>>>(arguments);
  } else {
    all_to_all_v_kernel<void><<<blocks, kThreads, 0, stream>>>(arguments);
  }
  check_launch("all_to_all_v_kernel");
}

}  // namespace deeptitan::cuda
