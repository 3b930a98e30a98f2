#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/quantization/group.cuh"
#include "kernels/cuda/quantization/quantization.h"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kChunksOfRow = kQuantizationGroup / kChunk;
constexpr int kRowsAtOnce = kThreads / kChunksOfRow;
constexpr int kPasses = kQuantizationGroup / kRowsAtOnce;

/// Grid: block columns, block rows, matrices. A thread keeps 8 chunks, every 16th row of one column of chunks, in its
/// registers between the maximum and the rounding.
template <typename T, bool kVector>
__global__ void __launch_bounds__(kThreads)
    quantize_blocks_kernel(float8_e4m3* __restrict__ q, float* __restrict__ scale, const T* __restrict__ x,
                           int64_t rows, int64_t columns, ScaleKind kind) {
  __shared__ float warp_maxima[kThreads / kWarp];
  const int64_t matrix = blockIdx.z;
  const int64_t column = blockIdx.x * kQuantizationGroup + threadIdx.x % kChunksOfRow * kChunk;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kQuantizationGroup + threadIdx.x / kChunksOfRow;
  const int n = chunk_elements(column, columns);
  FetchedChunk<T, kVector> fetched[kPasses];
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int64_t row = first_row + i * kRowsAtOnce;
    fetched[i].fetch(x + (matrix * rows + row) * columns + column, row < rows ? n : 0);
  }
  float values[kPasses][kChunk];
#pragma unroll
  for (int i = 0; i < kPasses; ++i) fetched[i].unpack(values[i]);
  bool infinite;
  const float amax = finite_amax(values, infinite, [&](float v) {
    v = warp_max(v);
    __syncthreads();  // before a second round overwrites what a slower warp still reads
    if (threadIdx.x % kWarp == 0) warp_maxima[threadIdx.x / kWarp] = v;
    __syncthreads();
    return warp_max(warp_maxima[threadIdx.x % (kThreads / kWarp)]);
  });
  const GroupScale s = group_scale(amax, kind);
  if (threadIdx.x == 0) scale[(matrix * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x] = s.scale;
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int64_t row = first_row + i * kRowsAtOnce;
    if (row >= rows || n == 0) break;
    store_chunk(q + (matrix * rows + row) * columns + column, round_chunk(values[i], s.inverse, infinite), n, kVector);
  }
}

template <typename T>
void quantize_blocks_of(float8_e4m3* q, float* scale, const T* x, int64_t matrices, int64_t rows, int64_t columns,
                        ScaleKind kind, cudaStream_t stream) {
  if (matrices == 0 || rows == 0 || columns == 0) return;
  const int64_t block_rows = quantization_groups(rows);
  constexpr int64_t kMost = 65535;
  DT_CHECK(matrices <= kMost && block_rows <= kMost,
           "quantize_blocks: {} matrices of {} rows are more than one launch holds ({} matrices of {} rows)", matrices,
           rows, kMost, kMost * kQuantizationGroup);
  const dim3 grid(static_cast<unsigned>(quantization_groups(columns)), static_cast<unsigned>(block_rows),
                  static_cast<unsigned>(matrices));
  const bool vector = chunks_are_aligned(q, columns) && chunks_are_aligned(x, columns);
  const auto kernel = vector ? quantize_blocks_kernel<T, true> : quantize_blocks_kernel<T, false>;
  kernel<<<grid, kThreads, 0, stream>>>(q, scale, x, rows, columns, kind);
  check_launch("quantize_blocks_kernel");
}

}  // namespace

void quantize_blocks(float8_e4m3* q, float* scale, const bfloat16* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind, cudaStream_t stream) {
  quantize_blocks_of(q, scale, x, matrices, rows, columns, kind, stream);
}
void quantize_blocks(float8_e4m3* q, float* scale, const float* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind, cudaStream_t stream) {
  quantize_blocks_of(q, scale, x, matrices, rows, columns, kind, stream);
}

}  // namespace deeptitan::cuda
