#include "kernels/cuda/all_to_all/exchange.cuh"
#include "kernels/cuda/all_to_all/launch.h"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

/// 80 KiB of a block's shared memory. Two launches in a row fit a multiprocessor together, so that the second prepares
/// itself while the first still moves rows.
using ShallowRing = BulkRing<16384, 5, 4>;
/// 128 KiB: a few blocks reach the link's speed only with more bytes under way.
using DeepRing = BulkRing<16384, 8, 6>;

template <typename Ring>
constexpr int kThreads = std::is_void_v<Ring> ? 512 : 128;

template <typename Ring>
__global__ void __launch_bounds__(kThreads<Ring>, 1)
    all_to_all_v_kernel(const __grid_constant__ AllToAllArguments arguments) {
  extern __shared__ __align__(128) char shared[];
  exchange_block<Ring>(arguments, static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), shared);
}

template <typename Ring>
void launch_kernel(const AllToAllArguments& arguments, const AllToAllLaunch& launch, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(kThreads<Ring>);
  if constexpr (!std::is_void_v<Ring>) {
    DT_CUDA_CHECK(cudaFuncSetAttribute(all_to_all_v_kernel<Ring>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(Ring::kBytes)));
    config.dynamicSmemBytes = Ring::kBytes;
  }
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = launch.dependent ? 1 : 0;
  DT_CUDA_CHECK(cudaLaunchKernelEx(&config, all_to_all_v_kernel<Ring>, arguments));
}

}  // namespace

void launch_all_to_all_v(const AllToAllArguments& arguments, const AllToAllLaunch& launch, cudaStream_t stream) {
  switch (launch.copies) {
    case RowCopies::kThreads:
      return launch_kernel<void>(arguments, launch, stream);
    case RowCopies::kBulk:
      return launch_kernel<ShallowRing>(arguments, launch, stream);
    case RowCopies::kBulkByFewBlocks:
      return launch_kernel<DeepRing>(arguments, launch, stream);
  }
}

}  // namespace deeptitan::cuda
