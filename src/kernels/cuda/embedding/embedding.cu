#include "kernels/cuda/block.cuh"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/norm/row_words.cuh"
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

constexpr int kWindow = 16384;  // tokens that are looked at at once
constexpr int kAhead = 8;       // rows on their way at once

constexpr int kLine = 128;

/// Fetches a line, `offset` bytes behind `base`, into the second-level cache.
__device__ void fetch_line(const void* base, int64_t offset) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const char*>(base) + offset));
}

/// The same, bit for bit: the ids are looked at four at a time, a window without a barrier; a bit a token says which
/// have the id, and a word's bit in `words` that it has some.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_scatter_add_words_kernel(float* d_table, const T* d_out, const int32_t* ids, int tokens, int64_t vocab,
                                       int64_t dim) {
  constexpr int kElements = kWordElements<T>;
  constexpr int kIds = 4;
  constexpr int kMasks = kWindow / 1024;
  __shared__ uint32_t bits[kWindow / 32];
  __shared__ uint32_t words[kMasks];
  const int token = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int32_t id = ids[token];
  if (id < 0 || id >= vocab) return;
  // Bit j: token begin + j is there and has the id.
  const auto same = [&](int begin) -> uint32_t {
    if (begin + kIds <= tokens) {
      const int4 four = *reinterpret_cast<const int4*>(ids + begin);
      return (four.x == id ? 1u : 0u) | (four.y == id ? 2u : 0u) | (four.z == id ? 4u : 0u) | (four.w == id ? 8u : 0u);
    }
    uint32_t found = 0;
    for (int j = 0; begin + j < tokens; ++j) found |= ids[begin + j] == id ? 1u << j : 0u;
    return found;
  };
  bool earlier = false;
  for (int begin = thread * kIds; begin < token; begin += kThreads * kIds) {
    earlier |= (same(begin) & (begin + kIds <= token ? ~0u : (1u << (token - begin)) - 1)) != 0;
  }
  if (__syncthreads_or(earlier)) return;
  // They come while the ids are looked at.
  for (int64_t i = thread * int64_t{kLine}; i < dim * 4; i += kThreads * kLine) fetch_line(d_table + id * dim, i);
  for (int64_t i = thread * int64_t{kLine}; i < dim * static_cast<int64_t>(sizeof(T)); i += kThreads * kLine) {
    fetch_line(d_out + token * dim, i);
  }

  for (int window = token / kIds * kIds; window < tokens; window += kWindow) {
    for (int i = thread; i < kWindow / 32; i += kThreads) bits[i] = 0;
    if (thread < kMasks) words[thread] = 0;
    __syncthreads();
    const int end = min(tokens, window + kWindow);
    bool some = false;
#pragma unroll 4
    for (int begin = window + thread * kIds; begin < end; begin += kThreads * kIds) {
      const uint32_t found = same(begin);
      if (found == 0) continue;
      const int word = (begin - window) / 32;
      atomicOr(&bits[word], found << ((begin - window) % 32));
      atomicOr(&words[word / 32], 1u << (word % 32));
      some = true;
    }
    if (!__syncthreads_or(some)) continue;
    for (int64_t column = static_cast<int64_t>(thread) * kElements; column < dim; column += kThreads * kElements) {
      auto* place = reinterpret_cast<float4*>(d_table + id * dim + column);
      float sum[kElements];
#pragma unroll
      for (int j = 0; j < kElements / 4; ++j) {
        const float4 four = place[j];
        sum[4 * j] = four.x, sum[4 * j + 1] = four.y, sum[4 * j + 2] = four.z, sum[4 * j + 3] = four.w;
      }
      int mask = -1, word = 0;
      uint32_t words_left = 0, bits_left = 0;
      const auto next_term = [&]() -> const uint4* {  // null behind the last
        while (bits_left == 0) {
          while (words_left == 0) {
            if (++mask == kMasks) return nullptr;
            words_left = words[mask];
          }
          word = mask * 32 + __ffs(static_cast<int>(words_left)) - 1;
          words_left &= words_left - 1;
          bits_left = bits[word];
        }
        const int64_t term = window + word * 32 + __ffs(static_cast<int>(bits_left)) - 1;
        bits_left &= bits_left - 1;
        return reinterpret_cast<const uint4*>(d_out + term * dim + column);
      };
      bool more = true;
      while (more) {
        uint4 rows[kAhead];
        int count = 0;
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          const uint4* term = more ? next_term() : nullptr;
          more = term != nullptr;
          if (!more) continue;
          rows[k] = *term;
          count = k + 1;
        }
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          if (k >= count) break;
          float values[kElements];
          unpack_word(values, rows[k]);
#pragma unroll
          for (int j = 0; j < kElements; ++j) sum[j] += values[j];
        }
      }
#pragma unroll
      for (int j = 0; j < kElements / 4; ++j) {
        place[j] = make_float4(sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]);
      }
    }
    __syncthreads();  // before the bits are cleared
  }
}

template <typename T>
void launch_scatter_add(float* d_table, const T* d_out, const int32_t* ids, int64_t tokens, int64_t vocab, int64_t dim,
                        cudaStream_t stream) {
  if (tokens <= 0 || dim <= 0) return;
  if (!plain_kernels_wanted() && takes_words(d_out, dim) && takes_words(d_table, dim) && takes_words(ids, 0)) {
    embedding_scatter_add_words_kernel<<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(
        d_table, d_out, ids, static_cast<int>(tokens), vocab, dim);
    check_launch("embedding_scatter_add_words_kernel");
    return;
  }
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
