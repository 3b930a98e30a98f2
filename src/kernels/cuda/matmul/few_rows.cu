#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/matmul/few_rows.h"

namespace deeptitan::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kVector = 8;                // elements of 16 bytes
constexpr int kStride = kWarp * kVector;  // elements that a warp reads at once
constexpr int kAhead = 4;                 // such reads in flight

/// Eight products' sum, the lower element of each pair first.
__device__ float dot8(const uint4& a, const uint4& b, float sum) {
  const uint32_t left[4] = {a.x, a.y, a.z, a.w};
  const uint32_t right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = exact_fma(__uint_as_float(left[i] << 16), __uint_as_float(right[i] << 16), sum);
    sum = exact_fma(__uint_as_float(left[i] & 0xffff0000u), __uint_as_float(right[i] & 0xffff0000u), sum);
  }
  return sum;
}

/// sum[m] = this lane's part of x[m] . w over K.
template <int kRows>
__device__ void multiply_column(float (&sum)[kRows], const bfloat16* x, int64_t ld_x, const bfloat16* w, int64_t inputs,
                                int64_t rows, int lane) {
#pragma unroll
  for (int m = 0; m < kRows; ++m) sum[m] = 0;
  for (int64_t k = lane * kVector; k < inputs; k += kStride * kAhead) {
    uint4 held[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = k + i * kStride;
      held[i] = at < inputs ? __ldg(reinterpret_cast<const uint4*>(w + at)) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t at = k + i * kStride;
      if (at >= inputs) break;
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        if (m < rows) sum[m] = dot8(__ldg(reinterpret_cast<const uint4*>(x + m * ld_x + at)), held[i], sum[m]);
      }
    }
  }
}

template <typename Output>
__device__ void store_result(const FewRowsProduct<Output>& p, int64_t row, int64_t column, float value) {
  Output* y = p.y + row * p.ld_y + column;
  store_rounded(y, p.accumulate ? exact_add(to_float(*y), value) : value);
}

/// A warp a column, for all rows.
template <int kRows, typename Output>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(const FewRowsProduct<Output> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (column >= p.outputs) return;
  float sum[kRows];
  multiply_column<kRows>(sum, p.x + column / p.block_outputs * p.x_block, p.ld_x, p.weight + column * p.inputs,
                         p.inputs, p.rows, lane);
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    if (m >= p.rows) break;
    const float total = warp_sum(sum[m]);
    if (lane == 0) store_result(p, m, column, total);
  }
}

/// A warp a column of one row: blockIdx.y is the row, whose group every warp finds.
template <typename Output>
__global__ void __launch_bounds__(kThreads) few_grouped_rows_kernel(const FewRowsProduct<Output> p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int64_t row = blockIdx.y;
  int64_t low = 0, high = p.groups.groups;  // the last group that begins at or before the row
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (p.groups.first[middle] <= row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int64_t group = low - 1;
  if (column >= p.outputs || group < 0 || row >= p.groups.first[group] + p.groups.count[group]) return;
  float sum[1];
  multiply_column<1>(sum, p.x + row * p.ld_x, p.ld_x, p.weight + (group * p.outputs + column) * p.inputs, p.inputs, 1,
                     lane);
  const float total = warp_sum(sum[0]);
  if (lane == 0) store_result(p, row, column, total);
}

constexpr int kOrderedColumns = 8;
constexpr int kOrderedThreads = kOrderedColumns * static_cast<int>(kFewRows);
constexpr int kOrderedSteps = 256;

/// Thread (row, column) of a block of 8 columns.
__global__ void __launch_bounds__(kOrderedThreads)
    few_rows_in_order_kernel(float* y, int64_t ld_y, const float* x, int64_t ld_x, const float* weight, int64_t rows,
                             int64_t outputs, int64_t inputs) {
  __shared__ float w_tile[kOrderedColumns][kOrderedSteps + 1];
  __shared__ float x_tile[kFewRows][kOrderedSteps + 1];
  const int row = threadIdx.x / kOrderedColumns, column = threadIdx.x % kOrderedColumns;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kOrderedColumns;
  float sum = 0;
  for (int64_t k = 0; k < inputs; k += kOrderedSteps) {
    const int steps = static_cast<int>(inputs - k < kOrderedSteps ? inputs - k : kOrderedSteps);
    for (int i = threadIdx.x; i < kOrderedColumns * kOrderedSteps; i += kOrderedThreads) {
      const int c = i / kOrderedSteps, step = i % kOrderedSteps;
      w_tile[c][step] = step < steps && first + c < outputs ? weight[(first + c) * inputs + k + step] : 0.0f;
    }
    for (int i = threadIdx.x; i < rows * kOrderedSteps; i += kOrderedThreads) {
      const int r = i / kOrderedSteps, step = i % kOrderedSteps;
      x_tile[r][step] = step < steps ? x[r * ld_x + k + step] : 0.0f;
    }
    __syncthreads();
    if (row < rows) {
#pragma unroll 8
      for (int step = 0; step < steps; ++step) sum = exact_fma(x_tile[row][step], w_tile[column][step], sum);
    }
    __syncthreads();
  }
  if (row < rows && first + column < outputs) y[row * ld_y + first + column] = sum;
}

template <int kRows, typename Output>
void launch(const FewRowsProduct<Output>& p, unsigned blocks, cudaStream_t stream) {
  few_rows_kernel<kRows><<<blocks, kThreads, 0, stream>>>(p);
  check_launch("few_rows_kernel");
}

}  // namespace

template <typename Output>
bool few_rows_fit(const FewRowsProduct<Output>& p) {
  const auto aligned = [](const bfloat16* data, int64_t ld) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld % kVector == 0;
  };
  return p.rows <= (p.groups.first == nullptr ? kFewRows : kFewGroupedRows) && aligned(p.x, p.ld_x) &&
         p.x_block % kVector == 0 && aligned(p.weight, p.inputs);
}

template <typename Output>
void multiply_few_rows(const FewRowsProduct<Output>& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.outputs <= 0) return;
  const auto blocks = static_cast<unsigned>((p.outputs + kWarps - 1) / kWarps);
  if (p.groups.first != nullptr) {
    few_grouped_rows_kernel<<<dim3(blocks, static_cast<unsigned>(p.rows)), kThreads, 0, stream>>>(p);
    return check_launch("few_grouped_rows_kernel");
  }
  if (p.rows == 1) return launch<1>(p, blocks, stream);
  if (p.rows <= 4) return launch<4>(p, blocks, stream);
  launch<kFewRows>(p, blocks, stream);
}

void multiply_few_rows_in_order(float* y, int64_t ld_y, const float* x, int64_t ld_x, const float* weight, int64_t rows,
                                int64_t outputs, int64_t inputs, cudaStream_t stream) {
  if (rows <= 0 || outputs <= 0) return;
  const auto blocks = static_cast<unsigned>((outputs + kOrderedColumns - 1) / kOrderedColumns);
  few_rows_in_order_kernel<<<blocks, kOrderedThreads, 0, stream>>>(y, ld_y, x, ld_x, weight, rows, outputs, inputs);
  check_launch("few_rows_in_order_kernel");
}

template bool few_rows_fit(const FewRowsProduct<float>&);
template bool few_rows_fit(const FewRowsProduct<bfloat16>&);
template void multiply_few_rows(const FewRowsProduct<float>&, cudaStream_t);
template void multiply_few_rows(const FewRowsProduct<bfloat16>&, cudaStream_t);

}  // namespace deeptitan::cuda
