#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/group_sizes.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    sizes_of_groups_kernel(int32_t* sizes, const int32_t* offsets, int64_t groups) {
  for (int64_t g = first_element(); g < groups; g += element_stride()) sizes[g] = offsets[g + 1] - offsets[g];
}

}  // namespace

void sizes_of_groups(int32_t* sizes, const int32_t* offsets, int64_t groups, cudaStream_t stream) {
  if (groups <= 0) return;
  sizes_of_groups_kernel<<<blocks_for<kThreads>(groups), kThreads, 0, stream>>>(sizes, offsets, groups);
  check_launch("sizes_of_groups_kernel");
}

}  // namespace deeptitan::cuda
