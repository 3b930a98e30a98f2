#pragma once

// A token as the weighted sum of its rows, wherever these lie, and the gradients of that.

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/exact_math.h"
#include "kernels/row_dot.h"

namespace deeptitan::cuda {

inline constexpr int kWeightedRowsThreads = 128;

/// Block (x, y) of kWeightedRowsThreads sums the y-th part of token x, a thread one chunk of columns:
/// out[x] = sum over k of weight[x, k] * the row of place[x, k], in the order of k, then + addend[x]; this is rounded
/// to T, then + residual[x]. `weight` (all 1), `addend` and `residual` may be null; a negative place has no row, and is
/// not added. `row_at(place)` is where a row lies; places that are negative are asked for as 0.
template <typename T, bool kVector, typename RowAt>
__device__ __forceinline__ void add_up_rows(T* out, const float* __restrict__ weight, const T* addend,
                                            const T* residual, const int32_t* place_of_slot, int top_k, int64_t hidden,
                                            const RowAt& row_at) {
  constexpr int kUnroll = 8;  // rows in flight a thread
  const int64_t token = blockIdx.x;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kWeightedRowsThreads + threadIdx.x) * kChunk;
  if (column >= hidden) return;
  const int n = static_cast<int>(min(hidden - column, static_cast<int64_t>(kChunk)));
  const int64_t first_slot = token * top_k;
  const int64_t offset = token * hidden + column;
  FetchedChunk<T, kVector> extra, before;
  extra.fetch(addend + offset, addend != nullptr ? n : 0);
  before.fetch(residual + offset, residual != nullptr ? n : 0);
  float sum[kChunk] = {};
  for (int begin = 0; begin < top_k; begin += kUnroll) {
    FetchedChunk<T, kVector> fetched[kUnroll];
    int32_t place[kUnroll];
    float w[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) place[i] = begin + i < top_k ? place_of_slot[first_slot + begin + i] : -1;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) fetched[i].fetch(row_at(max(place[i], 0)) + column, place[i] >= 0 ? n : 0);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) w[i] = weight != nullptr && place[i] >= 0 ? weight[first_slot + begin + i] : 1.0f;
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      float value[kChunk];
      fetched[i].unpack(value);
      if (place[i] < 0) continue;
#pragma unroll
      for (int j = 0; j < kChunk; ++j) sum[j] = exact_fma(w[i], value[j], sum[j]);
    }
  }
  if (addend != nullptr) {
    float value[kChunk];
    extra.unpack(value);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) sum[j] = exact_add(sum[j], value[j]);
  }
  if (residual != nullptr) {
    float value[kChunk];
    before.unpack(value);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      const float rounded = std::is_same_v<T, float> ? sum[j] : to_float(to_bfloat16(sum[j]));
      sum[j] = exact_add(rounded, value[j]);
    }
  }
  store_chunk(out + offset, sum, n, kVector);
}

/// The grid of such blocks.
inline dim3 weighted_rows_grid(int64_t tokens, int64_t hidden) {
  constexpr int64_t kColumnsOfBlock = kWeightedRowsThreads * kChunk;
  return {static_cast<unsigned>(tokens), static_cast<unsigned>((hidden + kColumnsOfBlock - 1) / kColumnsOfBlock)};
}

/// A warp works out the gradients of one row y and of its weight: d_y = weight * d_out, and, in lane 0,
/// d_out . y in the order of row_dot.h, or 0 without `with_dot`. d_y may be y, or d_out: each element is read and
/// written by one lane, in this order.
template <typename T, bool kVector>
__device__ __forceinline__ float weighted_row_backward(T* d_y, const T* d_out, const T* y, float weight, bool with_dot,
                                                       int64_t hidden) {
  static_assert(kDotLanes == kWarp && kDotSumsPerLane == kChunk && kDotSums == kWarp * kChunk);
  constexpr int kUnroll = 4;
  const auto elements_at = [hidden](int64_t column) {
    return static_cast<int>(max(min(hidden - column, static_cast<int64_t>(kChunk)), int64_t{0}));
  };
  float sum[kChunk] = {};
  for (int64_t begin = threadIdx.x % kWarp * kChunk; begin < hidden; begin += kUnroll * kDotSums) {
    FetchedChunk<T, kVector> gradients[kUnroll], values[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t column = begin + i * kDotSums;
      gradients[i].fetch(d_out + column, elements_at(column));
      values[i].fetch(y + column, with_dot ? elements_at(column) : 0);
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t column = begin + i * kDotSums;
      float gradient[kChunk], value[kChunk], scaled[kChunk];
      gradients[i].unpack(gradient);
      values[i].unpack(value);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) {
        sum[j] = exact_fma(gradient[j], value[j], sum[j]);
        scaled[j] = exact_mul(weight, gradient[j]);
      }
      const int n = elements_at(column);
      if (n > 0) store_chunk(d_y + column, scaled, n, kVector);
    }
  }
  if (!with_dot) return 0;
  float lane_sum = sum[0];
#pragma unroll
  for (int j = 1; j < kChunk; ++j) lane_sum = exact_add(lane_sum, sum[j]);
  return warp_sum(lane_sum);
}

}  // namespace deeptitan::cuda
