#pragma once

// The softmax of scores as products on tensor cores leave them, mma.sync's and wgmma's alike: of a warp's 16 rows lane
// l holds columns 8 n + 2 (l % 4) and the next, in rows l / 4 (s[4 n], s[4 n + 1]) and 8 more (s[4 n + 2], s[4 n + 3]).
// Weights are powers of two of scores times log2 e.

#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

/// 2^x, to two units of the last place; 0 below 2^-126.
__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// The largest of a value in the four lanes that hold a row, and their sum.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

/// Of the two rows that a lane holds a part of.
struct RowState {
  float max[2];
  float sum[2];  // this lane's part
};

/// The largest of a row's kKeys scores; `half`: which of the lane's two rows.
template <int kKeys>
__device__ __forceinline__ float row_max(const float* s, int half) {
  float max = fmaxf(s[2 * half], s[2 * half + 1]);
#pragma unroll
  for (int i = 4; i < kKeys / 2; i += 4) max = fmaxf(max, fmaxf(s[i + 2 * half], s[i + 2 * half + 1]));
  return quad_max(max);
}

/// A row's scores become 2^(s scale - base); the sum of this lane's.
template <int kKeys>
__device__ __forceinline__ float weigh_row(float* s, int half, float scale, float base) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kKeys / 2; i += 4) {
#pragma unroll
    for (int j = i + 2 * half; j < i + 2 * half + 2; ++j) {
      s[j] = exp2_fast(fmaf(s[j], scale, -base));
      sum += s[j];
    }
  }
  return sum;
}

}  // namespace deeptitan::cuda
