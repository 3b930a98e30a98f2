#pragma once

namespace deeptitan {

/// Dot products of rows run in 256 sums, eight consecutive elements for each of a warp's 32 threads: sum j takes the
/// elements j, j + 256, ... with fused multiply-adds, sums 8 l to 8 l + 7 are added in order into lane l, then lanes l
/// and l + w for w = 16, 8, 4, 2, 1.
inline constexpr int kDotSums = 256;
inline constexpr int kDotSumsPerLane = 8;
inline constexpr int kDotLanes = 32;

}  // namespace deeptitan
