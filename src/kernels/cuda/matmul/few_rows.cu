#include "kernels/cuda/matmul/few_rows.cuh"

#include "core/error.h"
#include "kernels/cuda/matmul/few_rows.h"

namespace deeptitan::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;

/// Columns of a row's product that are read ahead: as many as registers allow.
template <int kRows>
inline constexpr int kAhead = kRows <= 4 ? 8 : 4;

template <typename Output>
__device__ void store_result(Output* y, bool accumulate, float value) {
  store_rounded(y, accumulate ? exact_add(to_float(*y), value) : value);
}

template <typename Output>
struct SecondProduct {
  Output* y = nullptr;
  int64_t ld_y = 0;
  const bfloat16* weight = nullptr;
  int64_t outputs = 0;
};

unsigned blocks_of(int64_t outputs) {
  return static_cast<unsigned>((outputs + kWarps - 1) / kWarps);
}

/// A warp a column, for all rows. With kTwo the columns of a second product of as many rows and inputs lie behind those
/// of the first.
template <int kRows, bool kTwo, typename Output>
__global__ void __launch_bounds__(kThreads)
    few_rows_kernel(const FewRowsProduct<Output> p, const SecondProduct<Output> second) {
  let_next_launch_begin();
  const int lane = threadIdx.x % kWarp;
  int64_t column = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  int64_t outputs = p.outputs, ld_y = p.ld_y;
  const bfloat16* weight = p.weight;
  Output* y = p.y;
  if constexpr (kTwo) {
    if (column >= outputs) {
      column -= outputs;
      outputs = second.outputs, ld_y = second.ld_y;
      weight = second.weight;
      y = second.y;
    }
  }
  const bool inside = column < outputs;
  const bfloat16* w = weight + (inside ? column : 0) * p.inputs;
  ColumnPart<kAhead<kRows>> part;
  part.load(w, lane * kFewVector, inside ? p.inputs : 0);
  wait_for_launch_before();
  if (!inside) return;
  float sum[kRows] = {};
  for (int64_t k = lane * kFewVector;;) {
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (m < p.rows) sum[m] = part.add_products(p.x + m * p.ld_x, k, p.inputs, sum[m]);
    }
    k += kFewStride * kAhead<kRows>;
    if (k - lane * kFewVector >= p.inputs) break;
    part.load(w, k, p.inputs);
  }
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
    if (m >= p.rows) break;
    const float total = warp_sum(sum[m]);
    if (lane == 0) store_result(y + m * ld_y + column, p.accumulate, total);
  }
}

/// A warp a column of one row: blockIdx.y is the row, whose group every warp finds.
template <typename Output>
__global__ void __launch_bounds__(kThreads) few_grouped_rows_kernel(const FewRowsProduct<Output> p) {
  let_next_launch_begin();
  wait_for_launch_before();
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
  const bfloat16* const w[1] = {p.weight + (group * p.outputs + column) * p.inputs};
  const bfloat16* const x[1] = {p.x + row * p.ld_x};
  ColumnDots<1, kAhead<1>> dots;
  float total[1];
  dots.begin(w, p.inputs, lane);
  dots.finish(total, x, w, p.inputs, lane);
  if (lane == 0) store_result(p.y + row * p.ld_y + column, p.accumulate, total[0]);
}

/// Thread (row, column) of a block of 8 columns.
__global__ void __launch_bounds__(kOrderedSums) few_rows_in_order_kernel(const OrderedProduct<float> p) {
  extern __shared__ __align__(16) char shared[];
  let_next_launch_begin();
  multiply_in_order(p, static_cast<int64_t>(blockIdx.x) * kOrderedColumns, shared);
}

template <bool kTwo, typename Output>
void launch(const FewRowsProduct<Output>& first, const SecondProduct<Output>& second, cudaStream_t stream) {
  const auto kernel = first.rows == 1   ? few_rows_kernel<1, kTwo, Output>
                      : first.rows <= 4 ? few_rows_kernel<4, kTwo, Output>
                                        : few_rows_kernel<kFewRows, kTwo, Output>;
  launch_dependent(kernel, "few_rows_kernel", dim3(blocks_of(first.outputs + second.outputs)), kThreads, 0, stream,
                   first, second);
}

}  // namespace

template <typename Output>
bool few_rows_fit(const FewRowsProduct<Output>& p) {
  const auto aligned = [](const bfloat16* data, int64_t ld) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ld % kFewVector == 0;
  };
  return p.rows <= (p.groups.first == nullptr ? kFewRows : kFewGroupedRows) && aligned(p.x, p.ld_x) &&
         aligned(p.weight, p.inputs);
}

template <typename Output>
void multiply_few_rows(const FewRowsProduct<Output>& p, cudaStream_t stream) {
  if (p.rows <= 0 || p.outputs <= 0) return;
  if (p.groups.first != nullptr) {
    return launch_dependent(few_grouped_rows_kernel<Output>, "few_grouped_rows_kernel",
                            dim3(blocks_of(p.outputs), static_cast<unsigned>(p.rows)), kThreads, 0, stream, p);
  }
  launch<false>(p, SecondProduct<Output>{}, stream);
}

void multiply_few_rows_twice(const FewRowsProduct<bfloat16>& first, const FewRowsProduct<bfloat16>& second,
                             cudaStream_t stream) {
  DT_CHECK(first.rows == second.rows && first.inputs == second.inputs && first.x == second.x &&
               first.ld_x == second.ld_x && !first.accumulate && !second.accumulate,
           "two products at once have the same rows, found {} x {} and {} x {}", first.rows, first.inputs, second.rows,
           second.inputs);
  if (first.rows <= 0) return;
  launch<true>(first, SecondProduct<bfloat16>{second.y, second.ld_y, second.weight, second.outputs}, stream);
}

void multiply_few_rows_in_order(float* y, int64_t ld_y, const float* x, int64_t ld_x, const float* weight, int64_t rows,
                                int64_t outputs, int64_t inputs, cudaStream_t stream) {
  if (rows <= 0 || outputs <= 0) return;
  const auto blocks = static_cast<unsigned>((outputs + kOrderedColumns - 1) / kOrderedColumns);
  static_assert(kFewRows == kOrderedRows);
  DT_CUDA_CHECK(cudaFuncSetAttribute(few_rows_in_order_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     kOrderedBytes<float>));
  launch_dependent(few_rows_in_order_kernel, "few_rows_in_order_kernel", dim3(blocks), kOrderedSums,
                   kOrderedBytes<float>, stream,
                   OrderedProduct<float>{y, ld_y, x, ld_x, weight, rows, outputs, inputs});
}

template bool few_rows_fit(const FewRowsProduct<float>&);
template bool few_rows_fit(const FewRowsProduct<bfloat16>&);
template void multiply_few_rows(const FewRowsProduct<float>&, cudaStream_t);
template void multiply_few_rows(const FewRowsProduct<bfloat16>&, cudaStream_t);

}  // namespace deeptitan::cuda
