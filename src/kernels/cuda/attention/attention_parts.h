#pragma once

// What the backward of every form of attention begins and ends with.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deeptitan::cuda {

/// Floats that the sums of `rows` rows take in the workspace: what lies behind them is aligned to 16 bytes.
inline int64_t aligned_row_sums(int64_t rows) {
  return (rows + 3) / 4 * 4;
}

/// delta[row] = d_out[row] . out[row], [rows, width]. One launch.
template <typename T>
void row_dots(float* delta, const T* d_out, const T* out, int64_t rows, int64_t width, cudaStream_t stream);

/// d_key_rope [tokens, Dr] = the sum of the heads' parts [tokens, H, Dr], in their order. One launch.
template <typename T>
void sum_heads(T* d_key_rope, int64_t ld, const float* parts, int64_t tokens, int64_t heads, int64_t rope_dim,
               cudaStream_t stream);

}  // namespace deeptitan::cuda
