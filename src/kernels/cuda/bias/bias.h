#pragma once

// Biases on the GPU, any size; kernels/cpu/bias/bias.h says what each function computes, and these give the same bits.
// All pointers are device pointers. Deterministic; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// As cpu::add_bias.
void add_bias(float* out, int64_t ld, const float* bias, int64_t rows, int64_t columns, cudaStream_t stream);
void add_bias(bfloat16* out, int64_t ld, const float* bias, int64_t rows, int64_t columns, cudaStream_t stream);

/// As cpu::add_bias_backward.
void add_bias_backward(float* d_bias, const float* d_out, int64_t ld, int64_t rows, int64_t columns,
                       cudaStream_t stream);
void add_bias_backward(float* d_bias, const bfloat16* d_out, int64_t ld, int64_t rows, int64_t columns,
                       cudaStream_t stream);

}  // namespace deeptitan::cuda
