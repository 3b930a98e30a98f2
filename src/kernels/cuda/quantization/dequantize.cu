#include "core/error.h"
#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/fast_divide.h"
#include "kernels/cuda/quantization/quantization.h"
#include "kernels/exact_math.h"

namespace deeptitan::cuda {

namespace {

constexpr int kThreads = 256;

/// Where the scale of an element lies.
struct RowScales {
  const float* scale;
  int64_t rows;
  int64_t groups;
  ScaleLayout layout;

  __device__ float at(int64_t row, int64_t column) const {
    return scale[scale_index(row, column / kQuantizationGroup, rows, groups, layout)];
  }
};

struct BlockScales {
  const float* scale;
  FastDivide rows_of_matrix;
  int64_t block_rows;
  int64_t block_columns;

  __device__ float at(int64_t row, int64_t column) const {
    const int64_t matrix = rows_of_matrix.divide(static_cast<uint32_t>(row));
    const int64_t row_in_matrix = row - matrix * rows_of_matrix.divisor();
    const int64_t band = matrix * block_rows + row_in_matrix / kQuantizationGroup;
    return scale[band * block_columns + column / kQuantizationGroup];
  }
};

/// A thread a chunk; a chunk never crosses a group of 128 columns. Grid: rows, parts of a row.
template <typename T, typename Scales>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(T* __restrict__ out, const float8_e4m3* __restrict__ q,
                                                              Scales scales, int64_t columns, bool vector) {
  const int64_t row = blockIdx.x;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * kChunk;
  if (column >= columns) return;
  const int n = static_cast<int>(min(columns - column, static_cast<int64_t>(kChunk)));
  const float scale = scales.at(row, column);
  float v[kChunk];
  load_chunk(v, q + row * columns + column, n, vector);
#pragma unroll
  for (int i = 0; i < kChunk; ++i) v[i] = exact_mul(v[i], scale);
  store_chunk(out + row * columns + column, v, n, vector);
}

template <typename T, typename Scales>
void launch(T* out, const float8_e4m3* q, const Scales& scales, int64_t rows, int64_t columns, cudaStream_t stream) {
  DT_CHECK(rows < (int64_t{1} << 31), "dequantize: {} rows are more than one launch holds", rows);
  const bool vector = chunks_are_aligned(out, columns) && chunks_are_aligned(q, columns);
  const int64_t chunks = (columns + kChunk - 1) / kChunk;
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>((chunks + kThreads - 1) / kThreads));
  dequantize_kernel<<<grid, kThreads, 0, stream>>>(out, q, scales, columns, vector);
  check_launch("dequantize_kernel");
}

template <typename T>
void dequantize_rows_of(T* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                        ScaleLayout layout, cudaStream_t stream) {
  if (rows == 0 || hidden == 0) return;
  launch(out, q, RowScales{scale, rows, quantization_groups(hidden), layout}, rows, hidden, stream);
}

template <typename T>
void dequantize_blocks_of(T* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                          int64_t columns, cudaStream_t stream) {
  if (matrices == 0 || rows == 0 || columns == 0) return;
  launch(out, q,
         BlockScales{scale, FastDivide(static_cast<uint32_t>(rows)), quantization_groups(rows),
                     quantization_groups(columns)},
         matrices * rows, columns, stream);
}

}  // namespace

void dequantize_rows(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout, cudaStream_t stream) {
  dequantize_rows_of(out, q, scale, rows, hidden, layout, stream);
}
void dequantize_rows(float* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout, cudaStream_t stream) {
  dequantize_rows_of(out, q, scale, rows, hidden, layout, stream);
}

void dequantize_blocks(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns, cudaStream_t stream) {
  dequantize_blocks_of(out, q, scale, matrices, rows, columns, stream);
}
void dequantize_blocks(float* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns, cudaStream_t stream) {
  dequantize_blocks_of(out, q, scale, matrices, rows, columns, stream);
}

}  // namespace deeptitan::cuda
