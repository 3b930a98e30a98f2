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

void launch_all_to_all_v(const AllToAllArguments& arguments, const AllToAllLaunch& launch, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = launch.dependent ? 1 : 0;
  if (launch.bulk) {
    DT_CUDA_CHECK(cudaFuncSetAttribute(all_to_all_v_kernel<Ring>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(Ring::kBytes)));
    config.dynamicSmemBytes = Ring::kBytes;
    DT_CUDA_CHECK(cudaLaunchKernelEx(&config, all_to_all_v_kernel<Ring>, arguments));
  } else {
    DT_CUDA_CHECK(cudaLaunchKernelEx(&config, all_to_all_v_kernel<void>, arguments));
  }
}

}  // namespace deeptitan::cuda
