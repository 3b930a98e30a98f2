#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.cuh"

namespace deeptitan::cuda::sm90 {

void launch_bf16_added_weight_gradient(const GroupedGemmParameters& parameters, int multiprocessors,
                                       cudaStream_t stream) {
  launch_grouped_gemm<KernelShape<Product::kBf16WeightGradient, 3, 5, true>>(parameters, multiprocessors, stream);
}

}  // namespace deeptitan::cuda::sm90
