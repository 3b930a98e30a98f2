#pragma once

#include <cuda_runtime_api.h>

#include "core/bfloat16.h"
#include "kernels/cuda/grouped_gemm/grouped_gemm.h"
#include "kernels/cuda/matmul/dense_product.h"

namespace deeptitan::cuda {

inline constexpr size_t kLoopWorkspaceBytes = kDenseWorkspaceBytes;

// One cuBLASLt product a group, after reading the group sizes on the host; equations in grouped_gemm.h.
void loop_forward(bfloat16* output, const bfloat16* activations, const bfloat16* weights, const GroupedGemmShape& shape,
                  const GroupedGemmOptions& options, void* workspace, cudaStream_t stream);
void loop_input_gradient(bfloat16* input_gradient, const bfloat16* output_gradient, const bfloat16* weights,
                         const GroupedGemmShape& shape, const GroupedGemmOptions& options, void* workspace,
                         cudaStream_t stream);
void loop_weight_gradient(float* weight_gradient, const bfloat16* output_gradient, const bfloat16* activations,
                          const GroupedGemmShape& shape, const GroupedGemmOptions& options, void* workspace,
                          cudaStream_t stream);

}  // namespace deeptitan::cuda
