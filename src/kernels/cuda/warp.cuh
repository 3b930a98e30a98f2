#pragma once

#include <cstdint>

#include "kernels/exact_math.h"

namespace deeptitan::cuda {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;

/// The sum over a warp, lanes l and l + w added for w = 16, 8, 4, 2, 1; the same bits in every lane (addition
/// commutes). kLanes, where it is not 0: only the first so many lanes hold something else than 0, and only they need
/// it.
template <int kLanes = 0>
__device__ float warp_sum(float x) {
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) {
    if (kLanes == 0 || width < kLanes) x = exact_add(x, __shfl_xor_sync(kAllLanes, x, width));
  }
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int width = kWarp / 2; width >= 1; width /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, width));
  return x;
}

/// The sum of this lane's and all lower lanes' values.
__device__ inline int32_t warp_inclusive_scan(int32_t x, int lane) {
#pragma unroll
  for (int width = 1; width < kWarp; width *= 2) {
    const int32_t lower = __shfl_up_sync(kAllLanes, x, width);
    if (lane >= width) x += lower;
  }
  return x;
}

/// The sum of the values of all threads below this one, of a block of kThreads threads; `total` gets the sum over the
/// block. Every thread must call it; `warp_totals` [kThreads / 32] is shared memory, free again when it returns.
template <int kThreads>
__device__ int32_t block_exclusive_scan(int32_t x, int32_t* warp_totals, int32_t& total) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kWarps <= kWarp);
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int32_t inclusive = warp_inclusive_scan(x, lane);
  if (lane == kWarp - 1) warp_totals[warp] = inclusive;
  __syncthreads();
  const int32_t of_warps = warp_inclusive_scan(lane < kWarps ? warp_totals[lane] : 0, lane);
  const int32_t lower_warps = __shfl_sync(kAllLanes, of_warps, warp == 0 ? 0 : warp - 1);
  total = __shfl_sync(kAllLanes, of_warps, kWarps - 1);
  __syncthreads();
  return inclusive - x + (warp == 0 ? 0 : lower_warps);
}

}  // namespace deeptitan::cuda
