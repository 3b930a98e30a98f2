#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.cuh"

namespace deeptitan::cuda::sm90 {

void launch_fp8_rowwise(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream) {
  launch_grouped_gemm<KernelShape<Product::kFp8Rowwise, 4, 2>>(parameters, multiprocessors, stream);
}

}  // namespace deeptitan::cuda::sm90
