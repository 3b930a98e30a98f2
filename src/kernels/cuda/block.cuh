#pragma once

// Reductions over a block, always in the same order.

#include <cstdint>

#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda {

/// combine(values of all threads) in every thread of a block of kThreads; warps by shuffles, then the warps' results.
/// Every thread must call it; `shared` [kThreads / 32] is free again when it returns.
template <int kThreads, typename T, typename Combine>
__device__ T block_reduce(T value, T* shared, const Combine& combine) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp);
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, width));
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  T result = shared[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) result = combine(result, shared[warp]);
  __syncthreads();
  return result;
}

template <int kThreads, typename T>
__device__ T block_sum(T value, T* shared) {
  return block_reduce<kThreads>(value, shared, [](T a, T b) { return a + b; });
}

/// The largest value; NaN where one is.
template <int kThreads>
__device__ float block_max(float value, float* shared) {
  return block_reduce<kThreads>(value, shared, [](float a, float b) { return a > b || a != a ? a : b; });
}

/// Stores a float as T, rounded to nearest even.
__device__ inline void store_rounded(float* p, float value) {
  *p = value;
}
__device__ inline void store_rounded(bfloat16* p, float value) {
  *p = to_bfloat16(value);
}

/// Blocks of kThreads threads for a loop over `count` elements that strides by the grid.
template <int kThreads>
unsigned blocks_for(int64_t count) {
  constexpr int64_t kMostBlocks = 4096;  // several for each multiprocessor of any chip; the rest is the stride
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

/// The first element of this thread in such a loop, and the stride of the loop.
__device__ inline int64_t first_element() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t element_stride() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

}  // namespace deeptitan::cuda
