#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/norm/rms_norm.h"
#include "kernels/cuda/norm/row_words.cuh"
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
  return !plain_kernels_wanted() && dim % kEach == 0 && dim <= kEach * kMostParts * kThreads && whole(weight) &&
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

/// The same with the rows in registers.
template <typename T, int kRowThreads, int kWords>
__global__ void __launch_bounds__(kRowThreads)
    rms_norm_backward_input_words_kernel(T* d_x, int64_t ld_d_x, const T* d_out, int64_t ld_d_out, const T* x,
                                         int64_t ld_x, const float* rstd, const float* weight, int dim,
                                         bool accumulate) {
  constexpr int kElements = kWordElements<T>;
  __shared__ float shared[kRowThreads / kWarp];
  const int64_t row = blockIdx.x;
  const int words = dim / kElements;
  T* d_x_row = d_x + row * ld_d_x;
  uint4 x_word[kWords], d_word[kWords], before[kWords];
  load_words<kRowThreads>(x_word, x + row * ld_x, words);
  load_words<kRowThreads>(d_word, d_out + row * ld_d_out, words);
  if (accumulate) load_words<kRowThreads>(before, d_x_row, words);
  float dot = 0;
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int i = w * kRowThreads + static_cast<int>(threadIdx.x);
    if (i >= words) break;
    float value[kElements], d[kElements], factor[kElements];
    unpack_word(value, x_word[w]);
    unpack_word(d, d_word[w]);
    load_weights(factor, weight, i);
#pragma unroll
    for (int j = 0; j < kElements; ++j) dot += factor[j] * d[j] * value[j];
  }
  dot = block_sum<kRowThreads>(dot, shared);
  const float scale = rstd[row];
  const float projection = scale * scale * scale * (dot / static_cast<float>(dim));
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int i = w * kRowThreads + static_cast<int>(threadIdx.x);
    if (i >= words) break;
    float value[kElements], d[kElements], factor[kElements], sum[kElements];
    unpack_word(value, x_word[w]);
    unpack_word(d, d_word[w]);
    load_weights(factor, weight, i);
    if (accumulate) unpack_word(sum, before[w]);
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const float gradient = factor[j] * d[j] * scale - value[j] * projection;
      sum[j] = accumulate ? sum[j] + gradient : gradient;
    }
    reinterpret_cast<uint4*>(d_x_row)[i] = pack_word(sum);
  }
}

template <typename T>
bool launch_backward_input_in_words(T* d_x, int64_t ld_d_x, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                                    const float* rstd, const float* weight, int64_t rows, int64_t dim, bool accumulate,
                                    cudaStream_t stream) {
  if (plain_kernels_wanted() || dim % kWordElements<T> != 0 || !takes_words(d_x, ld_d_x) ||
      !takes_words(d_out, ld_d_out) || !takes_words(x, ld_x) || !takes_words(weight, 0)) {
    return false;
  }
  return for_row_shape(dim / kWordElements<T>, [&](auto threads, auto words) {
    rms_norm_backward_input_words_kernel<T, threads(), words()><<<static_cast<unsigned>(rows), threads(), 0, stream>>>(
        d_x, ld_d_x, d_out, ld_d_out, x, ld_x, rstd, weight, static_cast<int>(dim), accumulate);
    check_launch("rms_norm_backward_input_words_kernel");
  });
}

template <typename T>
void launch_backward_input(T* d_x, int64_t ld_d_x, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                           const float* rstd, const float* weight, int64_t rows, int64_t dim, bool accumulate,
                           cudaStream_t stream) {
  if (rows <= 0 || dim <= 0) return;
  if (launch_backward_input_in_words(d_x, ld_d_x, d_out, ld_d_out, x, ld_x, rstd, weight, rows, dim, accumulate,
                                     stream)) {
    return;
  }
  rms_norm_backward_input_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
      d_x, ld_d_x, d_out, ld_d_out, x, ld_x, rstd, weight, dim, accumulate);
  check_launch("rms_norm_backward_input_kernel");
}

// Small blocks: a chunk has few columns' worth of threads.
constexpr int kWeightThreads = 64;
constexpr int kChunkShares = 32;

// At least 16 rows a chunk, at most 512 chunks.
constexpr int64_t kMaxChunks = 512;
int64_t rows_per_chunk(int64_t rows) {
  return std::max<int64_t>(16, (rows + kMaxChunks - 1) / kMaxChunks);
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

/// The same, a thread a word of columns, with the words of eight rows on their way at once.
template <typename T>
__global__ void __launch_bounds__(kWeightThreads)
    rms_norm_backward_weight_words_kernel(float* partial, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                                          const float* rstd, int64_t rows, int64_t dim, int64_t chunk_rows) {
  constexpr int kAhead = 8;
  constexpr int kElements = kWordElements<T>;
  let_next_launch_begin();
  const int64_t begin = blockIdx.y * chunk_rows;
  const int64_t end = begin + chunk_rows < rows ? begin + chunk_rows : rows;
  const int64_t column = first_element() * kElements;
  if (column >= dim) return;
  float sum[kElements] = {};
  for (int64_t r = begin; r < end; r += kAhead) {
    uint4 d_word[kAhead], x_word[kAhead];
    float scale[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t row = r + k < end ? r + k : end - 1;
      d_word[k] = *reinterpret_cast<const uint4*>(d_out + row * ld_d_out + column);
      x_word[k] = *reinterpret_cast<const uint4*>(x + row * ld_x + column);
      scale[k] = rstd[row];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (r + k >= end) break;
      float d[kElements], value[kElements];
      unpack_word(d, d_word[k]);
      unpack_word(value, x_word[k]);
#pragma unroll
      for (int j = 0; j < kElements; ++j) sum[j] = exact_fma(d[j], exact_mul(value[j], scale[k]), sum[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < kElements; ++j) partial[blockIdx.y * dim + column + j] = sum[j];
}

/// sum[column] += the chunks' parts: each row of a block's threads adds up its share of the chunks in order, and the
/// first row the shares in theirs.
__global__ void __launch_bounds__(kWarp* kChunkShares)
    add_chunks_kernel(float* sum, const float* partial, int64_t chunks, int64_t dim) {
  __shared__ float shares[kChunkShares][kWarp];
  wait_for_launch_before();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  const int64_t of_share = (chunks + kChunkShares - 1) / kChunkShares;
  const int64_t begin = threadIdx.y * of_share;
  const int64_t end = begin + of_share < chunks ? begin + of_share : chunks;
  float share = 0;
  if (column < dim) {
#pragma unroll 8
    for (int64_t chunk = begin; chunk < end; ++chunk) share = exact_add(share, partial[chunk * dim + column]);
  }
  shares[threadIdx.y][threadIdx.x] = share;
  __syncthreads();
  if (threadIdx.y != 0 || column >= dim) return;
  float total = sum[column];
  for (int s = 0; s < kChunkShares; ++s) total = exact_add(total, shares[s][threadIdx.x]);
  sum[column] = total;
}

template <typename T>
void launch_backward_weight(float* d_weight, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                            const float* rstd, int64_t rows, int64_t dim, float* workspace, cudaStream_t stream) {
  if (rows <= 0 || dim <= 0) return;
  const auto chunks = static_cast<unsigned>(chunk_count(rows));
  const bool words =
      !plain_kernels_wanted() && dim % kWordElements<T> == 0 && takes_words(d_out, ld_d_out) && takes_words(x, ld_x);
  if (words) {
    constexpr int64_t kColumns = kWeightThreads * kWordElements<T>;
    const dim3 grid(static_cast<unsigned>((dim + kColumns - 1) / kColumns), chunks);
    rms_norm_backward_weight_words_kernel<<<grid, kWeightThreads, 0, stream>>>(workspace, d_out, ld_d_out, x, ld_x,
                                                                               rstd, rows, dim, rows_per_chunk(rows));
    check_launch("rms_norm_backward_weight_words_kernel");
  } else {
    rms_norm_backward_weight_kernel<<<dim3(blocks_for<kThreads>(dim), chunks), kThreads, 0, stream>>>(
        workspace, d_out, ld_d_out, x, ld_x, rstd, rows, dim, rows_per_chunk(rows));
    check_launch("rms_norm_backward_weight_kernel");
  }
  launch_dependent(add_chunks_kernel, "add_chunks_kernel", dim3(static_cast<unsigned>((dim + kWarp - 1) / kWarp)),
                   dim3(kWarp, kChunkShares), 0, stream, d_weight, workspace, chunks, dim);
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
