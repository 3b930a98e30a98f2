#include <cuda_pipeline.h>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/matmul/in_order.h"

namespace deeptitan::cuda {
namespace {

constexpr int kSide = 8;  // threads along each side of a tile
constexpr int kThreads = kSide * kSide;
constexpr int kVector = 4;  // floats of 16 bytes
constexpr int kStages = 4;

/// A tile's rows of an operand, kSteps of them along K; the padding puts rows that are read together into banks of
/// their own.
template <int kRows, int kSteps>
struct Stage {
  float row[kRows][kSteps + kVector];
};

/// Starts copying rows first .. first + kRows - 1 of `source` from step k on; zeros beyond `count` and `steps`.
template <int kRows, int kSteps>
__device__ void fetch(Stage<kRows, kSteps>& stage, const float* source, int64_t stride, int64_t first, int64_t count,
                      int64_t k, int64_t steps) {
  constexpr int kChunks = kSteps / kVector;
#pragma unroll
  for (int part = 0; part < kRows * kChunks / kThreads; ++part) {
    const int chunk = static_cast<int>(threadIdx.x) + part * kThreads;
    const int row = chunk / kChunks;
    const int step = chunk % kChunks * kVector;
    const bool inside = first + row < count && k + step < steps;
    const float* from = inside ? source + (first + row) * stride + k + step : source;
    __pipeline_memcpy_async(&stage.row[row][step], from, 16, inside ? 0 : 16);
  }
}

/// A thread computes kEach x kEach sums, kSide rows and columns apart, so that a warp's rows lie in banks of their own.
template <int kEach, int kSteps>
__global__ void __launch_bounds__(kThreads) in_order_kernel(const InOrderProduct p) {
  constexpr int kTile = kEach * kSide;
  __shared__ __align__(16) Stage<kTile, kSteps> x_stages[kStages];
  __shared__ __align__(16) Stage<kTile, kSteps> w_stages[kStages];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t first_column = static_cast<int64_t>(blockIdx.y) * kTile;
  const int row = static_cast<int>(threadIdx.x) / kSide;
  const int column = static_cast<int>(threadIdx.x) % kSide;
  const auto slices = static_cast<int>((p.inputs + kSteps - 1) / kSteps);
  const auto fetch_slice = [&](int slice) {
    if (slice < slices) {
      const int64_t k = static_cast<int64_t>(slice) * kSteps;
      fetch(x_stages[slice % kStages], p.x, p.ld_x, first_row, p.rows, k, p.inputs);
      fetch(w_stages[slice % kStages], p.weight, p.inputs, first_column, p.outputs, k, p.inputs);
    }
    __pipeline_commit();  // one a slice, empty or not, so that waiting counts slices
  };
#pragma unroll
  for (int slice = 0; slice < kStages - 1; ++slice) fetch_slice(slice);
  float sum[kEach][kEach] = {};
  for (int slice = 0; slice < slices; ++slice) {
    __pipeline_wait_prior(kStages - 2);
    __syncthreads();  // the slice is there for all, and all have left the stage that is filled next
    fetch_slice(slice + kStages - 1);
    const Stage<kTile, kSteps>& x = x_stages[slice % kStages];
    const Stage<kTile, kSteps>& w = w_stages[slice % kStages];
#pragma unroll
    for (int step = 0; step < kSteps; step += kVector) {
      float4 left[kEach], right[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        left[i] = *reinterpret_cast<const float4*>(&x.row[row + i * kSide][step]);
        right[i] = *reinterpret_cast<const float4*>(&w.row[column + i * kSide][step]);
      }
      const auto multiply = [&](float float4::*at) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sum[i][j] = exact_fma(left[i].*at, right[j].*at, sum[i][j]);
        }
      };
      multiply(&float4::x);
      multiply(&float4::y);
      multiply(&float4::z);
      multiply(&float4::w);
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t m = first_row + row + i * kSide;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int64_t n = first_column + column + j * kSide;
      if (m < p.rows && n < p.outputs) p.y[m * p.ld_y + n] = sum[i][j];
    }
  }
}

template <int kEach, int kSteps>
void launch(const InOrderProduct& p, cudaStream_t stream) {
  constexpr int kTile = kEach * kSide;
  const dim3 grid(static_cast<unsigned>((p.rows + kTile - 1) / kTile),
                  static_cast<unsigned>((p.outputs + kTile - 1) / kTile));
  in_order_kernel<kEach, kSteps><<<grid, kThreads, 0, stream>>>(p);
  check_launch("in_order_kernel");
}

}  // namespace

bool in_order_fits(const InOrderProduct& p) {
  const auto aligned = [](const float* data, int64_t stride) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kVector == 0;
  };
  return p.outputs <= kFewColumns && p.inputs % kVector == 0 && aligned(p.x, p.ld_x) && aligned(p.weight, p.inputs);
}

// Tiles of 16 x 16 while there are so few that each sum's chain of additions is what takes time; of 32 x 32 where they
// fill the chip, and half the reads of the operands count.
void multiply_in_order(const InOrderProduct& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.outputs <= 0) return;
  constexpr int64_t kManyResults = int64_t{2048} * 64;
  if (p.rows * p.outputs <= kManyResults) {
    launch<2, 64>(p, stream);
  } else {
    launch<4, 32>(p, stream);
  }
}

}  // namespace deeptitan::cuda
