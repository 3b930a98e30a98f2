#pragma once

// A token's experts in the registers of a warp: lane l has the experts l * kPerLane to (l + 1) * kPerLane - 1.

#include <cstdint>

#include "kernels/cuda/warp.cuh"
#include "kernels/router_math.h"

namespace deeptitan::cuda {

/// v = row[first .. first + kPerLane - 1], `absent` past `count`. `vector`: count is a multiple of the width of the
/// loads and row is aligned to it.
template <int kPerLane>
__device__ void load_experts(float (&v)[kPerLane], const float* row, int first, int count, bool vector, float absent) {
  constexpr int kWidth = kPerLane % 4 == 0 ? 4 : 2;
  if (vector) {
#pragma unroll
    for (int i = 0; i < kPerLane; i += kWidth) {
      if (first + i < count) {
        if constexpr (kWidth == 4) {
          const float4 four = *reinterpret_cast<const float4*>(row + first + i);
          v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
        } else {
          const float2 two = *reinterpret_cast<const float2*>(row + first + i);
          v[i] = two.x, v[i + 1] = two.y;
        }
      } else {
#pragma unroll
        for (int j = 0; j < kWidth; ++j) v[i + j] = absent;
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) v[i] = first + i < count ? row[first + i] : absent;
}

template <int kPerLane>
__device__ void store_experts(float* row, const float (&v)[kPerLane], int first, int count, bool vector) {
  constexpr int kWidth = kPerLane % 4 == 0 ? 4 : 2;
  if (vector) {
#pragma unroll
    for (int i = 0; i < kPerLane; i += kWidth) {
      if (first + i >= count) break;
      if constexpr (kWidth == 4) {
        *reinterpret_cast<float4*>(row + first + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
      } else {
        *reinterpret_cast<float2*>(row + first + i) = make_float2(v[i], v[i + 1]);
      }
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    if (first + i < count) row[first + i] = v[i];
  }
}

/// Whether rows of `experts` floats from `base` can be read as load_experts<kPerLane> likes.
template <int kPerLane>
bool experts_are_aligned(const float* base, int experts) {
  constexpr int kWidth = kPerLane % 4 == 0 ? 4 : 2;
  return experts % kWidth == 0 && reinterpret_cast<uintptr_t>(base) % (kWidth * sizeof(float)) == 0;
}

/// The sum over a token's experts in the order of router_math.h.
template <int kPerLane>
__device__ float sum_experts(const float (&v)[kPerLane]) {
  float sum = v[0];
#pragma unroll
  for (int i = 1; i < kPerLane; ++i) sum = exact_add(sum, v[i]);
  return warp_sum(sum);
}

}  // namespace deeptitan::cuda
