#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// As cpu::rope_rotate, with the same bits; `halves`: pairs are elements i and i + dim / 2 instead of neighbours. All
/// pointers are device pointers. Deterministic; one launch.
void rope_rotate(float* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse, bool halves,
                 cudaStream_t stream);
void rope_rotate(bfloat16* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse, bool halves,
                 cudaStream_t stream);

}  // namespace deeptitan::cuda
