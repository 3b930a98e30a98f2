#pragma once

// What the router's CPU and GPU kernels must agree on to the bit: how experts are ranked, and the order of its sums.

#include <cstdint>

#include "kernels/exact_math.h"

namespace deeptitan {

/// Sums over a token's experts run in 32 lanes, one a thread of a warp: lane l adds the experts l * c to
/// (l + 1) * c - 1 in order, then lanes l and l + w are added for w = 16, 8, 4, 2, 1.
inline constexpr int kRouterLanes = 32;

/// c above: the fewest experts a lane among 2, 4, 8 and 12 that hold all of them.
DT_HOST_DEVICE constexpr int experts_per_lane(int experts) {
  const int needed = (experts + kRouterLanes - 1) / kRouterLanes;
  return needed <= 2 ? 2 : needed <= 4 ? 4 : needed <= 8 ? 8 : 12;
}

inline constexpr float kNormalizeEpsilon = 1e-20f;

/// The value by which an expert or a group is ranked: NaN counts as minus infinity.
DT_HOST_DEVICE inline float rank_value(float x) {
#if defined(__CUDA_ARCH__)
  return fmaxf(x, -INFINITY);
#else
  return x == x ? x : -__builtin_inff();
#endif
}

/// An integer that orders as rank values do (which are never NaN and never -0), above kExcludedKey for all of them.
DT_HOST_DEVICE inline uint32_t rank_key(float x) {
  const uint32_t bits = float_bits(x);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
inline constexpr uint32_t kExcludedKey = 0;

}  // namespace deeptitan
