#include "kernels/cuda/block.cuh"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

/// A block a token, a thread kCount neighbours at a time.
template <int kCount, typename Out, typename Table>
__global__ void __launch_bounds__(kThreads)
    embedding_gather_kernel(Out* out, const Table* table, const int32_t* ids, int64_t vocab, int64_t dim) {
  const int64_t token = blockIdx.x;
  const int64_t id = ids[token];
  const bool known = 0 <= id && id < vocab;
#pragma unroll 4
  for (int64_t i = threadIdx.x * kCount; i < dim; i += kThreads * kCount) {
    Floats<kCount> values;
    if (known) {
      values = load_floats<kCount>(table + id * dim + i);
    } else {
#pragma unroll
      for (int j = 0; j < kCount; ++j) values.at[j] = NAN;
    }
    store_floats(out + token * dim + i, values);
  }
}

template <typename Out, typename Table>
void launch_gather(Out* out, const Table* table, const int32_t* ids, int64_t tokens, int64_t vocab, int64_t dim,
                   cudaStream_t stream) {
  if (tokens <= 0 || dim <= 0) return;
  const bool vectors = takes_vectors(out, dim) && takes_vectors(table, dim);
  const auto kernel = vectors ? embedding_gather_kernel<kVector, Out, Table> : embedding_gather_kernel<1, Out, Table>;
  kernel<<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(out, table, ids, vocab, dim);
  check_launch("embedding_gather_kernel");
}

/// A block a token. The first token of an id adds the rows of all tokens of that id; the blocks of the others leave.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_scatter_add_kernel(float* d_table, const T* d_out, const int32_t* ids, int64_t tokens, int64_t vocab,
                                 int64_t dim) {
  __shared__ int32_t is_same[kThreads];
  const int64_t token = blockIdx.x;
  const int32_t id = ids[token];
  if (id < 0 || id >= vocab) return;
  for (int64_t begin = 0; begin < token; begin += kThreads) {
    const int64_t other = begin + threadIdx.x;
    if (__syncthreads_or(other < token && ids[other] == id)) return;
  }
  float* sum = d_table + id * dim;
  for (int64_t begin = token; begin < tokens; begin += kThreads) {
    const int64_t other = begin + threadIdx.x;
    const bool same = other < tokens && ids[other] == id;
    if (!__syncthreads_or(same)) continue;
    is_same[threadIdx.x] = same;
    __syncthreads();
    for (int i = 0; i < kThreads; ++i) {
      if (is_same[i] == 0) continue;
      const T* term = d_out + (begin + i) * dim;
      for (int64_t j = threadIdx.x; j < dim; j += kThreads) sum[j] += to_float(term[j]);
    }
  }
}

template <typename T>
void launch_scatter_add(float* d_table, const T* d_out, const int32_t* ids, int64_t tokens, int64_t vocab, int64_t dim,
                        cudaStream_t stream) {
  if (tokens <= 0 || dim <= 0) return;
  embedding_scatter_add_kernel<<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(d_table, d_out, ids, tokens,
                                                                                       vocab, dim);
  check_launch("embedding_scatter_add_kernel");
}

}  // namespace

void embedding_gather(float* out, const float* table, const int32_t* ids, int64_t tokens, int64_t vocab, int64_t dim,
                      cudaStream_t stream) {
  launch_gather(out, table, ids, tokens, vocab, dim, stream);
}
void embedding_gather(bfloat16* out, const bfloat16* table, const int32_t* ids, int64_t tokens, int64_t vocab,
                      int64_t dim, cudaStream_t stream) {
  launch_gather(out, table, ids, tokens, vocab, dim, stream);
}
void embedding_gather(bfloat16* out, const float* table, const int32_t* ids, int64_t tokens, int64_t vocab, int64_t dim,
                      cudaStream_t stream) {
  launch_gather(out, table, ids, tokens, vocab, dim, stream);
}

void embedding_scatter_add(float* d_table, const float* d_out, const int32_t* ids, int64_t tokens, int64_t vocab,
                           int64_t dim, cudaStream_t stream) {
  launch_scatter_add(d_table, d_out, ids, tokens, vocab, dim, stream);
}
void embedding_scatter_add(float* d_table, const bfloat16* d_out, const int32_t* ids, int64_t tokens, int64_t vocab,
                           int64_t dim, cudaStream_t stream) {
  launch_scatter_add(d_table, d_out, ids, tokens, vocab, dim, stream);
}

}  // namespace deeptitan::cuda
