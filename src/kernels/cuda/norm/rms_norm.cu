#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/norm/rms_norm.h"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

__device__ float reciprocal_rms(float sum_of_squares, int64_t dim, float epsilon) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(dim) + epsilon);
}

/// A block a row. With kAdd the row is a + b first, rounded to T and kept in sum_out; else b and sum_out are not read.
template <typename T, bool kAdd>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(T* out, int64_t ld_out, T* sum_out, float* rstd, const T* a, int64_t ld_a, const T* b,
                    const float* weight, int64_t dim, float epsilon) {
  __shared__ float shared[kWarps];
  const int64_t row = blockIdx.x;
  const T* x_row = a + row * ld_a;
  float squares = 0;
  for (int64_t i = threadIdx.x; i < dim; i += kThreads) {
    if constexpr (kAdd) {
      store_rounded(sum_out + row * dim + i, to_float(x_row[i]) + to_float(b[row * dim + i]));
    }
    const float value = to_float(kAdd ? sum_out[row * dim + i] : x_row[i]);
    squares += value * value;
  }
  const float row_rstd = reciprocal_rms(block_sum<kThreads>(squares, shared), dim, epsilon);
  if (rstd != nullptr && threadIdx.x == 0) rstd[row] = row_rstd;
  if constexpr (kAdd) x_row = sum_out + row * dim;  // each thread reads what it has written
  for (int64_t i = threadIdx.x; i < dim; i += kThreads) {
    store_rounded(out + row * ld_out + i, to_float(x_row[i]) * row_rstd * weight[i]);
  }
}

constexpr int kEach = 8;       // neighbours of a thread
constexpr int kMostParts = 4;  // of such neighbours

/// Whether a block's registers hold a row, which is read and written 16 bytes (bf16) or twice as many at a time.
template <typename T>
bool row_is_held(std::initializer_list<const T*> rows, std::initializer_list<int64_t> strides, const float* weight,
                 int64_t dim) {
  const auto whole = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return dim % kEach == 0 && dim <= kEach * kMostParts * kThreads && whole(weight) &&
         std::all_of(rows.begin(), rows.end(), whole) &&
         std::all_of(strides.begin(), strides.end(), [](int64_t stride) { return stride % kEach == 0; });
}

/// The same for rows that a block's registers hold: each is read once.
template <typename T, bool kAdd, int kParts>
__global__ void __launch_bounds__(kThreads)
    held_rms_norm_kernel(T* out, int64_t ld_out, T* sum_out, float* rstd, const T* a, int64_t ld_a, const T* b,
                         const float* weight, int64_t dim, float epsilon) {
  __shared__ float shared[kWarps];
  let_next_launch_begin();
  const int64_t row = blockIdx.x;
  using Eight = Floats<kVector>[kEach / kVector];
  Eight scale[kParts], x[kParts];
  const auto for_parts = [&](const auto& body) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int64_t column = (static_cast<int64_t>(part) * kThreads + threadIdx.x) * kEach;
      if (column < dim) {
#pragma unroll
        for (int i = 0; i < kEach / kVector; ++i) body(part, i, column + i * kVector);
      }
    }
  };
  for_parts([&](int part, int i, int64_t column) { scale[part][i] = load_floats<kVector>(weight + column); });
  wait_for_launch_before();
  for_parts([&](int part, int i, int64_t column) { x[part][i] = load_floats<kVector>(a + row * ld_a + column); });
  float squares = 0;
  for_parts([&](int part, int i, int64_t column) {
    if constexpr (kAdd) {
      const Floats<kVector> other = load_floats<kVector>(b + row * dim + column);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        T sum;
        store_rounded(&sum, x[part][i].at[j] + other.at[j]);
        x[part][i].at[j] = to_float(sum);
      }
      store_floats(sum_out + row * dim + column, x[part][i]);
    }
#pragma unroll
    for (int j = 0; j < kVector; ++j) squares += x[part][i].at[j] * x[part][i].at[j];
  });
  const float row_rstd = reciprocal_rms(block_sum<kThreads>(squares, shared), dim, epsilon);
  if (rstd != nullptr && threadIdx.x == 0) rstd[row] = row_rstd;
  for_parts([&](int part, int i, int64_t column) {
    Floats<kVector> normed;
#pragma unroll
    for (int j = 0; j < kVector; ++j) normed.at[j] = x[part][i].at[j] * row_rstd * scale[part][i].at[j];
    store_floats(out + row * ld_out + column, normed);
  });
}

template <bool kAdd, typename T>
void launch_held(T* out, int64_t ld_out, T* sum_out, float* rstd, const T* a, int64_t ld_a, const T* b,
                 const float* weight, int64_t rows, int64_t dim, float epsilon, cudaStream_t stream) {
  const int64_t parts = (dim + kEach * kThreads - 1) / (kEach * kThreads);
  const auto kernel = parts == 1   ? held_rms_norm_kernel<T, kAdd, 1>
                      : parts == 2 ? held_rms_norm_kernel<T, kAdd, 2>
                                   : held_rms_norm_kernel<T, kAdd, kMostParts>;
  launch_dependent(kernel, "held_rms_norm_kernel", dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, out, ld_out,
                   sum_out, rstd, a, ld_a, b, weight, dim, epsilon);
}

template <typename T>
void launch_rms_norm(T* out, int64_t ld_out, float* rstd, const T* x, int64_t ld_x, const float* weight, int64_t rows,
                     int64_t dim, float epsilon, cudaStream_t stream) {
  if (rows <= 0 || dim <= 0) return;
  if (row_is_held<T>({out, x}, {ld_out, ld_x}, weight, dim)) {
    return launch_held<false, T>(out, ld_out, nullptr, rstd, x, ld_x, nullptr, weight, rows, dim, epsilon, stream);
  }
  rms_norm_kernel<T, false><<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(out, ld_out, nullptr, rstd, x, ld_x,
                                                                                  nullptr, weight, dim, epsilon);
  check_launch("rms_norm_kernel");
}

template <typename T>
void launch_add_rms_norm(T* sum_out, T* normed_out, float* rstd, const T* a, const T* b, const float* weight,
                         int64_t rows, int64_t dim, float epsilon, cudaStream_t stream) {
  if (rows <= 0 || dim <= 0) return;
  if (row_is_held<T>({normed_out, sum_out, a, b}, {dim}, weight, dim)) {
    return launch_held<true, T>(normed_out, dim, sum_out, rstd, a, dim, b, weight, rows, dim, epsilon, stream);
  }
  rms_norm_kernel<T, true><<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(normed_out, dim, sum_out, rstd, a, dim,
                                                                                 b, weight, dim, epsilon);
  check_launch("rms_norm_kernel");
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    rms_norm_backward_input_kernel(T* d_x, int64_t ld_d_x, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                                   const float* rstd, const float* weight, int64_t dim, bool accumulate) {
  __shared__ float shared[kWarps];
  const int64_t row = blockIdx.x;
  const T* x_row = x + row * ld_x;
  const T* d_out_row = d_out + row * ld_d_out;
  T* d_x_row = d_x + row * ld_d_x;
  float dot = 0;
  for (int64_t i = threadIdx.x; i < dim; i += kThreads) {
    dot += weight[i] * to_float(d_out_row[i]) * to_float(x_row[i]);
  }
  dot = block_sum<kThreads>(dot, shared);
  const float factor = rstd[row];
  const float projection = factor * factor * factor * (dot / static_cast<float>(dim));
  for (int64_t i = threadIdx.x; i < dim; i += kThreads) {
    const float gradient = weight[i] * to_float(d_out_row[i]) * factor - to_float(x_row[i]) * projection;
    store_rounded(d_x_row + i, accumulate ? to_float(d_x_row[i]) + gradient : gradient);
  }
}

template <typename T>
void launch_backward_input(T* d_x, int64_t ld_d_x, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                           const float* rstd, const float* weight, int64_t rows, int64_t dim, bool accumulate,
                           cudaStream_t stream) {
  if (rows <= 0 || dim <= 0) return;
  rms_norm_backward_input_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
      d_x, ld_d_x, d_out, ld_d_out, x, ld_x, rstd, weight, dim, accumulate);
  check_launch("rms_norm_backward_input_kernel");
}

// At least 64 rows a chunk, at most 64 chunks.
constexpr int64_t kMaxChunks = 64;
int64_t rows_per_chunk(int64_t rows) {
  return std::max<int64_t>(64, (rows + kMaxChunks - 1) / kMaxChunks);
}
int64_t chunk_count(int64_t rows) {
  return (rows + rows_per_chunk(rows) - 1) / rows_per_chunk(rows);
}

/// partial[chunk, column] = the chunk's rows, in order; a thread a column, blockIdx.y a chunk.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rms_norm_backward_weight_kernel(float* partial, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                                    const float* rstd, int64_t rows, int64_t dim, int64_t chunk_rows) {
  const int64_t begin = blockIdx.y * chunk_rows;
  const int64_t end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  for (int64_t i = first_element(); i < dim; i += element_stride()) {
    float sum = 0;
    for (int64_t r = begin; r < end; ++r) {
      sum = exact_fma(to_float(d_out[r * ld_d_out + i]), exact_mul(to_float(x[r * ld_x + i]), rstd[r]), sum);
    }
    partial[blockIdx.y * dim + i] = sum;
  }
}

__global__ void __launch_bounds__(kThreads)
    add_chunks_kernel(float* sum, const float* partial, int64_t chunks, int64_t dim) {
  for (int64_t i = first_element(); i < dim; i += element_stride()) {
    float total = sum[i];
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total = exact_add(total, partial[chunk * dim + i]);
    sum[i] = total;
  }
}

template <typename T>
void launch_backward_weight(float* d_weight, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                            const float* rstd, int64_t rows, int64_t dim, float* workspace, cudaStream_t stream) {
  if (rows <= 0 || dim <= 0) return;
  const int64_t chunks = chunk_count(rows);
  const dim3 grid(blocks_for<kThreads>(dim), static_cast<unsigned>(chunks));
  rms_norm_backward_weight_kernel<<<grid, kThreads, 0, stream>>>(workspace, d_out, ld_d_out, x, ld_x, rstd, rows, dim,
                                                                 rows_per_chunk(rows));
  check_launch("rms_norm_backward_weight_kernel");
  add_chunks_kernel<<<blocks_for<kThreads>(dim), kThreads, 0, stream>>>(d_weight, workspace, chunks, dim);
  check_launch("add_chunks_kernel");
}

}  // namespace

void rms_norm(float* out, int64_t ld_out, float* rstd, const float* x, int64_t ld_x, const float* weight, int64_t rows,
              int64_t dim, float epsilon, cudaStream_t stream) {
  launch_rms_norm(out, ld_out, rstd, x, ld_x, weight, rows, dim, epsilon, stream);
}
void rms_norm(bfloat16* out, int64_t ld_out, float* rstd, const bfloat16* x, int64_t ld_x, const float* weight,
              int64_t rows, int64_t dim, float epsilon, cudaStream_t stream) {
  launch_rms_norm(out, ld_out, rstd, x, ld_x, weight, rows, dim, epsilon, stream);
}

void add_rms_norm(float* sum_out, float* normed_out, float* rstd, const float* a, const float* b, const float* weight,
                  int64_t rows, int64_t dim, float epsilon, cudaStream_t stream) {
  launch_add_rms_norm(sum_out, normed_out, rstd, a, b, weight, rows, dim, epsilon, stream);
}
void add_rms_norm(bfloat16* sum_out, bfloat16* normed_out, float* rstd, const bfloat16* a, const bfloat16* b,
                  const float* weight, int64_t rows, int64_t dim, float epsilon, cudaStream_t stream) {
  launch_add_rms_norm(sum_out, normed_out, rstd, a, b, weight, rows, dim, epsilon, stream);
}

void rms_norm_backward_input(float* d_x, int64_t ld_d_x, const float* d_out, int64_t ld_d_out, const float* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate, cudaStream_t stream) {
  launch_backward_input(d_x, ld_d_x, d_out, ld_d_out, x, ld_x, rstd, weight, rows, dim, accumulate, stream);
}
void rms_norm_backward_input(bfloat16* d_x, int64_t ld_d_x, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate, cudaStream_t stream) {
  launch_backward_input(d_x, ld_d_x, d_out, ld_d_out, x, ld_x, rstd, weight, rows, dim, accumulate, stream);
}

int64_t rms_norm_backward_weight_workspace(int64_t rows, int64_t dim) {
  return rows <= 0 ? 0 : chunk_count(rows) * dim;
}

void rms_norm_backward_weight(float* d_weight, const float* d_out, int64_t ld_d_out, const float* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, cudaStream_t stream) {
  launch_backward_weight(d_weight, d_out, ld_d_out, x, ld_x, rstd, rows, dim, workspace, stream);
}
void rms_norm_backward_weight(float* d_weight, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, cudaStream_t stream) {
  launch_backward_weight(d_weight, d_out, ld_d_out, x, ld_x, rstd, rows, dim, workspace, stream);
}

}  // namespace deeptitan::cuda
