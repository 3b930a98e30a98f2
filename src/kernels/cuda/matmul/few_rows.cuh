#pragma once

// Parts of products with few rows: a warp's dot product with columns of a weight, and sums in the order of K.

#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/mma.cuh"

namespace deeptitan::cuda {

inline constexpr int kFewVector = 8;                   // elements of 16 bytes
inline constexpr int kFewStride = kWarp * kFewVector;  // elements that a warp reads at once

/// Eight products' sum, the lower element of each pair first.
__device__ __forceinline__ float dot8(const uint4& a, const uint4& b, float sum) {
  const uint32_t left[4] = {a.x, a.y, a.z, a.w};
  const uint32_t right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = exact_fma(__uint_as_float(left[i] << 16), __uint_as_float(right[i] << 16), sum);
    sum = exact_fma(__uint_as_float(left[i] & 0xffff0000u), __uint_as_float(right[i] & 0xffff0000u), sum);
  }
  return sum;
}

/// kAhead reads of a column that are in flight together: this lane's elements from k on, zeros past the end.
template <int kAhead>
struct ColumnPart {
  uint4 held[kAhead];

  __device__ __forceinline__ void load(const bfloat16* w, int64_t k, int64_t inputs) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = k + i * kFewStride;
      held[i] = at < inputs ? load_weight(w + at) : uint4{0, 0, 0, 0};
    }
  }
  __device__ __forceinline__ float add_products(const bfloat16* x, int64_t k, int64_t inputs, float sum) const {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = k + i * kFewStride;
      if (at < inputs) sum = dot8(*reinterpret_cast<const uint4*>(x + at), held[i], sum);
    }
    return sum;
  }
};

/// A warp's dot products of columns over K: sums[c] = x[c] . w[c], in every lane. The order of a sum is a function of K
/// alone. begin() may come before the activations are there, finish() after.
template <int kColumns, int kAhead>
struct ColumnDots {
  ColumnPart<kAhead> part[kColumns];

  __device__ __forceinline__ void begin(const bfloat16* const (&w)[kColumns], int64_t inputs, int lane) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) part[c].load(w[c], lane * kFewVector, inputs);
  }
  __device__ __forceinline__ void finish(float (&sums)[kColumns], const bfloat16* const (&x)[kColumns],
                                         const bfloat16* const (&w)[kColumns], int64_t inputs, int lane) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) sums[c] = 0;
    int64_t k = lane * kFewVector;
    while (true) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums[c] = part[c].add_products(x[c], k, inputs, sums[c]);
      k += kFewStride * kAhead;
      if (k - lane * kFewVector >= inputs) break;  // the same for all lanes
#pragma unroll
      for (int c = 0; c < kColumns; ++c) part[c].load(w[c], k, inputs);
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) sums[c] = warp_sum(sums[c]);
  }
};

// Sums in the order of K ----------------------------------------------------------------------------------------------

inline constexpr int kOrderedColumns = 8;
inline constexpr int kOrderedRows = 16;
inline constexpr int kOrderedSums = kOrderedColumns * kOrderedRows;  // threads that add up
inline constexpr int kOrderedSteps = 256;
inline constexpr int kOrderedStages = 3;

/// What a block multiplies: y [rows, outputs] = x W^T, its columns from `first` on.
template <typename X>
struct OrderedProduct {
  float* y;
  int64_t ld_y;
  const X* x;
  int64_t ld_x;
  const float* weight;
  int64_t rows;
  int64_t outputs;
  int64_t inputs;
};

template <typename X>
struct OrderedStage {
  static constexpr int kPad = 16 / sizeof(X);
  alignas(16) float w[kOrderedColumns][kOrderedSteps + 4];  // whole 16 bytes, and other banks for the next column
  alignas(16) X x[kOrderedRows][kOrderedSteps + kPad];
};

template <typename X>
inline constexpr int kOrderedBytes = kOrderedStages* static_cast<int>(sizeof(OrderedStage<X>));

/// rows x [k, k + kOrderedSteps) of a matrix into shared memory, zeros outside; asynchronously where `whole`: all rows
/// begin at whole 16 bytes and K is so many.
template <int kStride, typename T>
__device__ void fetch_steps(T* tile, const T* from, int64_t ld, int64_t rows, int64_t k, int64_t inputs, bool whole) {
  constexpr int kEach = 16 / sizeof(T);
  constexpr int kChunks = kOrderedSteps / kEach;
  if (whole) {
    for (int i = threadIdx.x; i < rows * kChunks; i += blockDim.x) {
      const int row = i / kChunks, step = i % kChunks * kEach;
      const bool inside = k + step < inputs;
      copy_async(shared_address(tile + row * kStride + step), from + row * ld + (inside ? k + step : 0), inside);
    }
    return;
  }
  for (int i = threadIdx.x; i < rows * kOrderedSteps; i += blockDim.x) {
    const int row = i / kOrderedSteps, step = i % kOrderedSteps;
    tile[row * kStride + step] = k + step < inputs ? from[row * ld + k + step] : T{};
  }
}

__device__ __forceinline__ void load_eight(float (&v)[8], const float* p) {
  const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void load_eight(float (&v)[8], const bfloat16* p) {
  const uint4 word = *reinterpret_cast<const uint4*>(p);
  const uint32_t pairs[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(pairs[i] << 16);
    v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

/// Columns first .. first + 7 by a block of at least kOrderedSums threads: a thread an element of y, whose sum starts
/// at zero and runs in the order of K, one fused multiply-add a step. `shared` has kOrderedBytes<X>. The block waits
/// for the launch before it.
template <typename X>
__device__ void multiply_in_order(const OrderedProduct<X>& p, int64_t first, void* shared) {
  auto* const stages = static_cast<OrderedStage<X>*>(shared);
  const int row = threadIdx.x / kOrderedColumns, column = threadIdx.x % kOrderedColumns;
  const int64_t columns = min(p.outputs - first, static_cast<int64_t>(kOrderedColumns));
  const float* w = p.weight + first * p.inputs;
  const bool whole_w = reinterpret_cast<uintptr_t>(w) % 16 == 0 && p.inputs % 4 == 0;
  const bool whole_x =
      reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && p.ld_x * sizeof(X) % 16 == 0 && p.inputs * sizeof(X) % 16 == 0;
  const auto fetch_w = [&](int64_t k, int stage) {
    fetch_steps<kOrderedSteps + 4>(&stages[stage].w[0][0], w, p.inputs, columns, k, p.inputs, whole_w);
  };
  const auto fetch_x = [&](int64_t k, int stage) {
    fetch_steps<kOrderedSteps + OrderedStage<X>::kPad>(&stages[stage].x[0][0], p.x, p.ld_x, p.rows, k, p.inputs,
                                                       whole_x);
  };
  constexpr int kAhead = kOrderedStages - 1;
  for (int s = 0; s < kAhead; ++s) fetch_w(s * kOrderedSteps, s);
  wait_for_launch_before();
  for (int s = 0; s < kAhead; ++s) {
    fetch_x(s * kOrderedSteps, s);
    copy_async_commit();
  }
  const bool mine = threadIdx.x < kOrderedSums && row < p.rows && column < columns;
  float sum = 0;
  int stage = 0;
  for (int64_t k = 0; k < p.inputs; k += kOrderedSteps) {
    copy_async_wait<kAhead - 1>();
    __syncthreads();  // the stage is there, and all have left the one before it
    const int next = (stage + kAhead) % kOrderedStages;
    if (k + kAhead * kOrderedSteps < p.inputs) {
      fetch_w(k + kAhead * kOrderedSteps, next);
      fetch_x(k + kAhead * kOrderedSteps, next);
    }
    copy_async_commit();
    if (mine) {
      const int steps = static_cast<int>(min(p.inputs - k, static_cast<int64_t>(kOrderedSteps)));
      const float* w_row = stages[stage].w[column];
      const X* x_row = stages[stage].x[row];
      int step = 0;
#pragma unroll 4
      for (; step + 8 <= steps; step += 8) {
        float a[8], b[8];
        load_eight(a, x_row + step);
        load_eight(b, w_row + step);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum = exact_fma(a[i], b[i], sum);
      }
      for (; step < steps; ++step) sum = exact_fma(to_float(x_row[step]), w_row[step], sum);
    }
    stage = (stage + 1) % kOrderedStages;
  }
  copy_async_wait<0>();
  if (mine) p.y[row * p.ld_y + first + column] = sum;
}

}  // namespace deeptitan::cuda
