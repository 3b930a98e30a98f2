#pragma once

// Ranks of 256 experts as integers that hold an approximate rank above and the expert's number in the lowest eight
// bits, and choosing by them. All are distinct. A token has eight lanes, each a group of 32 experts. Compare-exchanges
// on integers are two instructions of the half-rate pipe, and __vimax3_u32 and __viaddmax_u32 do two operations in one.

#include <cstdint>

#include "kernels/cuda/warp.cuh"
#include "kernels/exact_math.h"

namespace deeptitan::cuda {

inline constexpr int kTokenLanes = 8;
inline constexpr uint32_t kExpertUnit = 256;

/// An expert's packed rank is (sigmoid + bias + b) scale as a fixed-point number of 22 fractional bits above the eight
/// that name the expert. b is the largest |bias|; scale is a power of two, at most 1 and less than 2 / (1 + 2 b), so
/// that packed ranks stay below 2^31. In units of 2^-22 it errs by less than 4.5: 2 (the approximate sigmoid's error),
/// 0.5 (the exact one's), and 0.5 each for the roundings of the exact sum, of bias + b, and of the two conversions.
/// Ranks further apart than twice that are in their exact order; 1 more is for the bits of the expert.
inline constexpr uint32_t kRankMargin = 10 * kExpertUnit;

/// A group's packed rank is half the sum of its two best. It errs by 0.5 more, for the rounding of the exact sum, and
/// the bits of two experts and of the group are in the way.
inline constexpr uint32_t kGroupMargin = 12 * kExpertUnit;

/// Above this the fixed-point numbers would tell little of the sigmoids; every token is chosen exactly.
inline constexpr float kLargestBias = 1e5f;

struct RankScale {
  float largest_bias;
  float scale;
  bool usable;
};

/// Of the bias whose elements lane, lane + 32, ... this lane has.
__device__ inline RankScale make_rank_scale(const float (&bias)[256 / kWarp]) {
  uint32_t bits = 0;  // absolute values order as their bits do, infinity and NaN above all
#pragma unroll
  for (int i = 0; i < 256 / kWarp; ++i) bits = max(bits, float_bits(fabsf(bias[i])));
  const float largest = float_from_bits(__reduce_max_sync(kAllLanes, bits));
  const float range = (1.0f + 2.0f * largest) * 1.00001f;  // a little more, for the roundings
  return {largest, float_from_bits(0x7f000000u - (float_bits(range) & 0x7f800000u)), largest < kLargestBias};
}

/// 2 + x scale as bits: the fixed-point number is the fraction, since 0 <= x scale < 2.
__device__ inline uint32_t to_fixed_point(float x, float scale) {
  return float_bits(exact_fma(x, scale, 2.0f));
}

/// 1 / (1 + exp(-x)) with an error below 2^-21 (that of ex2.approx is 2^-22 of the power, that of rcp.approx 2^-23, and
/// the power weighs at most 1/4).
__device__ inline float approximate_sigmoid(float x) {
  float power, score;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(score) : "f"(1.0f + power));
  return score;
}

template <bool kExact>
__device__ float score_of(float logit) {
  return kExact ? exact_sigmoid(logit) : approximate_sigmoid(logit);
}

__device__ inline void order(uint32_t& high, uint32_t& low) {
  const uint32_t first = high;
  high = max(first, low);
  low = min(first, low);
}

__device__ inline void sort_four(uint32_t* v) {
  order(v[0], v[1]);
  order(v[2], v[3]);
  order(v[0], v[2]);
  order(v[1], v[3]);
  order(v[1], v[2]);
}

/// Sorts values that fall and then rise, or rise and then fall.
__device__ inline void sort_bitonic_four(uint32_t (&v)[4]) {
  order(v[0], v[2]);
  order(v[1], v[3]);
  order(v[0], v[1]);
  order(v[2], v[3]);
}

/// best = the best four of two sorted fours, sorted. Returns the best of the other four, or, unless kExact, a bound
/// that lies above it only where all of x or all of y are among the best: two instructions less.
template <bool kExact>
__device__ uint32_t merge_fours(uint32_t (&best)[4], const uint32_t* x, const uint32_t* y) {
  const uint32_t last_of_y = kExact ? min(x[0], y[3]) : y[3];
  const uint32_t last_of_x = kExact ? min(x[3], y[0]) : x[3];
#pragma unroll
  for (int i = 0; i < 4; ++i) best[i] = max(x[i], y[3 - i]);
  sort_bitonic_four(best);
  return max(__vimax3_u32(last_of_x, last_of_y, min(x[1], y[2])), min(x[2], y[1]));
}

/// The two best of eight sorted fours.
struct PackedTopTwo {
  uint32_t first;
  uint32_t second;
};
__device__ inline PackedTopTwo top_two_of_fours(const uint32_t (&v)[32]) {
  PackedTopTwo best[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) best[i] = {v[4 * i], v[4 * i + 1]};
#pragma unroll
  for (int width = 4; width >= 1; width /= 2) {
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const PackedTopTwo other = best[i + width];
      best[i].second = __vimax3_u32(min(best[i].first, other.first), best[i].second, other.second);
      best[i].first = max(best[i].first, other.first);
    }
  }
  return best[0];
}

/// v = the token's eight best of its lanes' sorted fours: in the even lanes the first to the fourth, in the odd lanes
/// the fifth to the eighth, sorted.
///
/// Pairs of lanes merge their fours into a sorted eight, the better half in the even lane. Then pairs merge with pairs,
/// and these again: of two sorted eights x and y the larger of x[i] and y[7 - i] are the best eight, and bitonic.
/// Element 7 - i is register 3 - i of the lane of the other parity in the other pair: for lane 0 of lanes 0 to 3 that
/// is lane 3, so the shuffle's mask is 3, and 7 for lanes 0 to 7.
__device__ inline void merge_lanes(uint32_t (&v)[4], bool odd) {
  uint32_t of_two[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, v[3 - i], 1);
    of_two[i] = odd ? min(v[i], other) : max(v[i], other);
  }
  sort_bitonic_four(of_two);
#pragma unroll
  for (int mask = 3; mask < kTokenLanes; mask = 2 * mask + 1) {
    uint32_t best[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) best[i] = max(of_two[i], __shfl_xor_sync(kAllLanes, of_two[3 - i], mask));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t other = __shfl_xor_sync(kAllLanes, best[i], 1);
      of_two[i] = odd ? min(best[i], other) : max(best[i], other);
    }
    sort_bitonic_four(of_two);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) v[i] = of_two[i];
}

}  // namespace deeptitan::cuda
