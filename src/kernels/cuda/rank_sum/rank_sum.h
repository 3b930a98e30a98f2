#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deeptitan::cuda {

/// sum[i] = ((x_0[i] + x_1[i]) + x_2[i]) + ..., for i in [0, n): x_r is parts + r * stride, but that of rank `own` is
/// `sum` itself. The bits are those of the same sums on the host. Deterministic; nothing is allocated or waited for.
void add_in_rank_order(float* sum, const float* parts, int64_t stride, int ranks, int own, int64_t n,
                       cudaStream_t stream);
void add_in_rank_order(double* sum, const double* parts, int64_t stride, int ranks, int own, int64_t n,
                       cudaStream_t stream);
void add_in_rank_order(int32_t* sum, const int32_t* parts, int64_t stride, int ranks, int own, int64_t n,
                       cudaStream_t stream);

}  // namespace deeptitan::cuda
