#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/matmul/matmul.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;  // rows and columns of a block's tile
constexpr int kSteps = 16;
constexpr int kPadded = kTile + 4;  // whole 16 bytes
constexpr int kEach = 4;            // rows and columns of a thread

/// tile[k][i] = source[i * stride + k * step_stride] as float, zero outside `extent` and `steps`. Neighbouring threads
/// read along whichever is contiguous.
template <typename T>
__device__ void load_tile(float (&tile)[kSteps][kPadded], const T* source, int64_t stride, int64_t step_stride,
                          int64_t extent, int64_t steps) {
#pragma unroll
  for (int part = 0; part < kTile * kSteps / kThreads; ++part) {
    const int element = static_cast<int>(threadIdx.x) + part * kThreads;
    const int k = step_stride == 1 ? element % kSteps : element / kTile;
    const int i = step_stride == 1 ? element / kSteps : element % kTile;
    tile[k][i] = i < extent && k < steps ? to_float(source[i * stride + k * step_stride]) : 0.0f;
  }
}

/// A block computes tiles of 64 x 64, one after another down the rows; blockIdx.y is the tile's column, z the batch.
template <typename Input, typename Output>
__global__ void __launch_bounds__(kThreads) multiply_strided_kernel(const StridedProduct<Input, Output> p) {
  __shared__ __align__(16) float a_tile[kSteps][kPadded];
  __shared__ __align__(16) float b_tile[kSteps][kPadded];
  const int64_t batch = blockIdx.z;
  int64_t first_row = 0, rows = p.rows, first_step = 0, steps = p.steps;
  if (p.groups == ProductGroups::kRows) {
    first_row = p.group_rows.first[batch];
    rows = p.group_rows.count[batch];
  } else if (p.groups == ProductGroups::kSteps) {
    first_step = p.group_rows.first[batch];
    steps = p.group_rows.count[batch];
  }
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kTile;
  const Input* b = p.b + batch * p.b_batch + first_step * p.b_step + column * p.b_column;
  const int thread_row = static_cast<int>(threadIdx.x) / 16 * kEach;
  const int thread_column = static_cast<int>(threadIdx.x) % 16 * kEach;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kTile; row < rows;
       row += static_cast<int64_t>(gridDim.x) * kTile) {
    const Input* a = p.a + batch * p.a_batch + first_step * p.a_step + (first_row + row) * p.a_row;
    float sum[kEach][kEach] = {};
    for (int64_t k = 0; k < steps; k += kSteps) {
      load_tile(a_tile, a + k * p.a_step, p.a_row, p.a_step, rows - row, steps - k);
      load_tile(b_tile, b + k * p.b_step, p.b_column, p.b_step, p.columns - column, steps - k);
      __syncthreads();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const float4 left = *reinterpret_cast<const float4*>(&a_tile[step][thread_row]);
        const float4 right = *reinterpret_cast<const float4*>(&b_tile[step][thread_column]);
        const float l[kEach] = {left.x, left.y, left.z, left.w};
        const float r[kEach] = {right.x, right.y, right.z, right.w};
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
#pragma unroll
          for (int j = 0; j < kEach; ++j) sum[i][j] = exact_fma(l[i], r[j], sum[i][j]);
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (row + thread_row + i >= rows) break;
      Output* c = p.c + batch * p.c_batch + (first_row + row + thread_row + i) * p.c_row + column + thread_column;
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        if (column + thread_column + j >= p.columns) break;
        store_rounded(c + j, p.accumulate ? exact_add(to_float(c[j]), sum[i][j]) : sum[i][j]);
      }
    }
  }
}

}  // namespace

template <typename Input, typename Output>
void multiply_strided(const StridedProduct<Input, Output>& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.columns <= 0 || p.batches <= 0) return;
  const int64_t row_tiles = (p.rows + kTile - 1) / kTile;
  const int64_t column_tiles = (p.columns + kTile - 1) / kTile;
  constexpr int64_t kMostOfGrid = 65535;
  DT_CHECK(column_tiles <= kMostOfGrid && p.batches <= kMostOfGrid,
           "a product of {} columns in {} batches is larger than a grid of {} tiles of {} columns, and as many batches",
           p.columns, p.batches, kMostOfGrid, kTile);
  // Groups mostly have few of the rows: a block goes over several tiles instead of most blocks finding none.
  constexpr int64_t kRowTilesOfGroup = 32;
  const int64_t blocks = p.groups == ProductGroups::kRows ? std::min(row_tiles, kRowTilesOfGroup) : row_tiles;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(column_tiles), static_cast<unsigned>(p.batches));
  multiply_strided_kernel<<<grid, kThreads, 0, stream>>>(p);
  check_launch("multiply_strided_kernel");
}

template void multiply_strided(const StridedProduct<float, float>&, cudaStream_t);
template void multiply_strided(const StridedProduct<float, bfloat16>&, cudaStream_t);
template void multiply_strided(const StridedProduct<bfloat16, float>&, cudaStream_t);
template void multiply_strided(const StridedProduct<bfloat16, bfloat16>&, cudaStream_t);

}  // namespace deeptitan::cuda
