#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.cuh"

namespace deeptitan::cuda::sm90 {

void launch_bf16_gate_up(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream) {
  launch_grouped_gemm<KernelShape<Product::kBf16GateUp, 4, 2>>(parameters, multiprocessors, stream);
}

}  // namespace deeptitan::cuda::sm90
