#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.cuh"

namespace deeptitan::cuda::sm90 {

void launch_bf16_input_gradient(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream) {
  launch_grouped_gemm<KernelShape<Product::kBf16InputGradient, 4, 2>>(parameters, multiprocessors, stream);
}

}  // namespace deeptitan::cuda::sm90
