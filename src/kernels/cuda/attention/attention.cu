// A warp takes one query (forward, gradient of the queries) or one key (gradient of keys and values) of one head, and
// walks over the keys or queries it meets in their order: no tile, no tensor core, no atomic.

#include <algorithm>

#include "core/error.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/attention_parts.h"
#include "kernels/cuda/attention/find_document.cuh"
#include "kernels/cuda/attention/softmax_state.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int64_t kMostSharedBytes = 48 * 1024;  // what a block of any chip has without asking

/// One row of one head: which token, head and document, and where its elements lie.
template <typename T>
struct Row {
  int64_t token;
  int64_t head;
  int64_t first;  // of the document's tokens
  int64_t end;    // first where no document holds the token

  __device__ Row(const cpu::AttentionInputs<T>& in, int64_t index)
      : token(index / in.heads), head(index % in.heads), first(token), end(token) {
    const int64_t document = find_document(in.document_offset, in.documents, token);
    if (document < 0) return;
    first = in.document_offset[document];
    end = in.document_offset[document + 1];
  }
};

template <typename T>
__device__ int64_t key_dim(const cpu::AttentionInputs<T>& in) {
  return in.nope_dim + in.rope_dim;
}
template <typename T>
__device__ const T* query_of(const cpu::AttentionInputs<T>& in, int64_t token, int64_t head) {
  return in.query + (token * in.heads + head) * key_dim(in);
}
template <typename T>
__device__ const T* key_of(const cpu::AttentionInputs<T>& in, int64_t token, int64_t head) {
  return in.key_value + (token * in.heads + head) * (in.nope_dim + in.value_dim);
}

/// target[0 .. n) = source, by a warp.
template <typename T>
__device__ void load_row(float* target, const T* source, int64_t n, int lane) {
  for (int64_t j = lane; j < n; j += kWarp) target[j] = to_float(source[j]);
}

/// The scaled score of a query in shared memory against a token's key.
template <typename T>
__device__ float score_of(const cpu::AttentionInputs<T>& in, const float* query, int64_t token, int64_t head,
                          int lane) {
  const float dot = warp_dot(query, key_of(in, token, head), in.nope_dim, lane) +
                    warp_dot(query + in.nope_dim, in.key_rope + token * in.ld_key_rope, in.rope_dim, lane);
  return warp_sum(dot) * in.scale;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_forward_kernel(T* out, float* log_sum_exp, cpu::AttentionInputs<T> in, int64_t rows) {
  extern __shared__ float shared[];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= rows) return;
  float* query = shared + warp * (key_dim(in) + in.value_dim);
  float* weighted = query + key_dim(in);
  const Row<T> row(in, index);
  load_row(query, query_of(in, row.token, row.head), key_dim(in), lane);
  for (int64_t j = lane; j < in.value_dim; j += kWarp) weighted[j] = 0;
  __syncwarp();
  SoftmaxState state;
  for (int64_t s = row.first; s <= row.token && s < row.end; ++s) {
    const float score = score_of(in, query, s, row.head, lane);
    state.add(score, key_of(in, s, row.head) + in.nope_dim, weighted, in.value_dim, lane);
  }
  const bool seen = row.first < row.end;
  T* out_row = out + index * in.value_dim;
  for (int64_t j = lane; j < in.value_dim; j += kWarp) {
    store_rounded(out_row + j, seen ? exact_div(weighted[j], state.sum) : 0.0f);
  }
  if (log_sum_exp != nullptr && lane == 0) log_sum_exp[index] = seen ? state.max + logf(state.sum) : 0.0f;
}

/// delta[row] = d_out . out.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    row_dots_kernel(float* delta, const T* d_out, const T* out, int64_t rows, int64_t width) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  float sum = 0;
  for (int64_t j = lane; j < width; j += kWarp) {
    sum = exact_fma(to_float(d_out[row * width + j]), to_float(out[row * width + j]), sum);
  }
  sum = warp_sum(sum);
  if (lane == 0) delta[row] = sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_backward_query_kernel(cpu::AttentionGradients<T> gradients, const T* d_out, const float* log_sum_exp,
                                    const float* delta, cpu::AttentionInputs<T> in, int64_t rows) {
  extern __shared__ float shared[];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= rows) return;
  float* query = shared + warp * (2 * key_dim(in) + in.value_dim);
  float* d_query = query + key_dim(in);
  float* d_out_row = d_query + key_dim(in);
  const Row<T> row(in, index);
  load_row(query, query_of(in, row.token, row.head), key_dim(in), lane);
  load_row(d_out_row, d_out + index * in.value_dim, in.value_dim, lane);
  for (int64_t j = lane; j < key_dim(in); j += kWarp) d_query[j] = 0;
  __syncwarp();
  for (int64_t s = row.first; s <= row.token && s < row.end; ++s) {
    const T* key = key_of(in, s, row.head);
    const T* rope = in.key_rope + s * in.ld_key_rope;
    const float p = expf(score_of(in, query, s, row.head, lane) - log_sum_exp[index]);
    const float dp = warp_sum(warp_dot(d_out_row, key + in.nope_dim, in.value_dim, lane));
    const float ds = in.scale * p * (dp - delta[index]);
    for (int64_t j = lane; j < key_dim(in); j += kWarp) {
      d_query[j] = exact_fma(ds, to_float(j < in.nope_dim ? key[j] : rope[j - in.nope_dim]), d_query[j]);
    }
  }
  for (int64_t j = lane; j < key_dim(in); j += kWarp) {
    store_rounded(gradients.d_query + index * key_dim(in) + j, d_query[j]);
  }
}

/// d_key_rope gets each head's part, [T, H, Dr].
template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_backward_key_kernel(cpu::AttentionGradients<T> gradients, float* d_key_rope, const T* d_out,
                                  const float* log_sum_exp, const float* delta, cpu::AttentionInputs<T> in,
                                  int64_t rows) {
  extern __shared__ float shared[];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= rows) return;
  float* key = shared + warp * 2 * (key_dim(in) + in.value_dim);
  float* value = key + key_dim(in);
  float* d_key = value + in.value_dim;
  float* d_value = d_key + key_dim(in);
  const Row<T> row(in, index);
  load_row(key, key_of(in, row.token, row.head), in.nope_dim, lane);
  load_row(key + in.nope_dim, in.key_rope + row.token * in.ld_key_rope, in.rope_dim, lane);
  load_row(value, key_of(in, row.token, row.head) + in.nope_dim, in.value_dim, lane);
  for (int64_t j = lane; j < key_dim(in); j += kWarp) d_key[j] = 0;
  for (int64_t j = lane; j < in.value_dim; j += kWarp) d_value[j] = 0;
  __syncwarp();
  for (int64_t t = row.token; t < row.end; ++t) {
    const int64_t at = t * in.heads + row.head;
    const T* query = query_of(in, t, row.head);
    const T* d_out_row = d_out + at * in.value_dim;
    // The parts of a key are added as in score_of, so that p is the forward's to the bit.
    const float dot = warp_sum(warp_dot(key, query, in.nope_dim, lane) +
                               warp_dot(key + in.nope_dim, query + in.nope_dim, in.rope_dim, lane));
    const float p = expf(dot * in.scale - log_sum_exp[at]);
    const float dp = warp_sum(warp_dot(value, d_out_row, in.value_dim, lane));
    const float ds = in.scale * p * (dp - delta[at]);
    for (int64_t j = lane; j < key_dim(in); j += kWarp) d_key[j] = exact_fma(ds, to_float(query[j]), d_key[j]);
    for (int64_t j = lane; j < in.value_dim; j += kWarp) d_value[j] = exact_fma(p, to_float(d_out_row[j]), d_value[j]);
  }
  T* d_key_value = gradients.d_key_value + index * (in.nope_dim + in.value_dim);
  for (int64_t j = lane; j < in.nope_dim; j += kWarp) store_rounded(d_key_value + j, d_key[j]);
  for (int64_t j = lane; j < in.value_dim; j += kWarp) store_rounded(d_key_value + in.nope_dim + j, d_value[j]);
  // Its own elements: lane l holds l, l + 32, ... of d_key, and another lane's count from nope_dim on.
  __syncwarp();
  for (int64_t j = lane; j < in.rope_dim; j += kWarp) d_key_rope[index * in.rope_dim + j] = d_key[in.nope_dim + j];
}

/// d_key_rope = the sum of the heads' parts, in their order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sum_heads_kernel(T* d_key_rope, int64_t ld, const float* parts, int64_t tokens, int64_t heads, int64_t rope_dim) {
  for (int64_t i = first_element(); i < tokens * rope_dim; i += element_stride()) {
    const int64_t token = i / rope_dim;
    float sum = 0;
    for (int64_t head = 0; head < heads; ++head) {
      sum += parts[(token * heads + head) * rope_dim + i % rope_dim];
    }
    store_rounded(d_key_rope + token * ld + i % rope_dim, sum);
  }
}

/// One warp's part of a query's entries: those of chunks warp, warp + kWarps, ... of 32.
template <typename T>
__global__ void __launch_bounds__(kThreads) latent_attention_kernel(T* out, LatentRows<T> in) {
  extern __shared__ float shared[];
  __shared__ float maxima[kWarps];
  __shared__ float sums[kWarps];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t index = blockIdx.x;
  const int64_t token = index / in.heads;
  const int64_t width = in.latent_dim + in.rope_dim;
  float* query = shared;
  float* weighted = shared + width + warp * in.latent_dim;
  for (int64_t j = threadIdx.x; j < width; j += kThreads) query[j] = to_float(in.query[index * width + j]);
  for (int64_t j = lane; j < in.latent_dim; j += kWarp) weighted[j] = 0;
  __syncthreads();
  const int64_t sequence = in.visible != nullptr ? token : find_sequence(in.rows, token);
  const int64_t visible = in.visible != nullptr ? in.visible[token]
                          : sequence < 0        ? 0
                                         : in.cached_length[sequence] + token - in.rows.query_offset[sequence] + 1;
  const int32_t* pages = in.page_table + sequence * in.page_table_stride;
  SoftmaxState state;
  for (int64_t begin = warp * kWarp; begin < visible; begin += kThreads) {
    const int64_t end = begin + kWarp < visible ? begin + kWarp : visible;
    for (int64_t i = begin; i < end; ++i) {
      const T* entry = in.cache + (pages[i / in.page_size] * in.page_size + i % in.page_size) * width;
      const float score = warp_sum(warp_dot(query, entry, width, lane)) * in.scale;
      state.add(score, entry, weighted, in.latent_dim, lane);
    }
  }
  if (lane == 0) {
    maxima[warp] = state.max;
    sums[warp] = state.sum;
  }
  __syncthreads();
  float max = maxima[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) max = maxima[w] > max || maxima[w] != maxima[w] ? maxima[w] : max;
  float factor[kWarps];
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    factor[w] = sums[w] == 0 ? 0.0f : expf(maxima[w] - max);  // a warp that saw nothing
    sum += sums[w] * factor[w];
  }
  for (int64_t j = threadIdx.x; j < in.latent_dim; j += kThreads) {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += shared[width + w * in.latent_dim + j] * factor[w];
    store_rounded(out + index * in.latent_dim + j, visible > 0 ? total / sum : 0.0f);  // else padding
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    copy_sequence_rows_kernel(T* out, const T* in, int64_t width, SequenceRows rows) {
  const int64_t token = blockIdx.x;
  const int64_t sequence = find_sequence(rows, token);
  if (sequence == kNotMeant) return;
  for (int64_t j = threadIdx.x; j < width; j += kThreads) {
    out[token * width + j] = sequence == kPadding ? T{} : in[token * width + j];
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    write_latent_cache_kernel(T* cache, int64_t entries, const int32_t* slot, const T* latent, int64_t ld_latent,
                              int64_t latent_dim, const T* key_rope, int64_t ld_key_rope, int64_t rope_dim) {
  const int64_t token = blockIdx.x;
  const int64_t entry = slot[token];
  if (entry < 0 || entry >= entries) return;
  T* row = cache + entry * (latent_dim + rope_dim);
  for (int64_t j = threadIdx.x; j < latent_dim + rope_dim; j += kThreads) {
    row[j] = j < latent_dim ? latent[token * ld_latent + j] : key_rope[token * ld_key_rope + j - latent_dim];
  }
}

unsigned blocks_of_rows(int64_t rows) {
  return static_cast<unsigned>((rows + kWarps - 1) / kWarps);
}

/// Bytes of shared memory for so many floats.
size_t shared_bytes(const char* kernel, int64_t floats) {
  const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
  DT_CHECK(bytes <= kMostSharedBytes,
           "{}: a head of these widths needs {} bytes of shared memory a block, and {} are there", kernel, bytes,
           kMostSharedBytes);
  return static_cast<size_t>(bytes);
}

}  // namespace

template <typename T>
void attention_forward(T* out, float* log_sum_exp, const cpu::AttentionInputs<T>& in, int64_t tokens,
                       cudaStream_t stream) {
  const int64_t rows = tokens * in.heads;
  if (rows <= 0) return;
  const int64_t floats = in.nope_dim + in.rope_dim + in.value_dim;
  attention_forward_kernel<<<blocks_of_rows(rows), kThreads, shared_bytes("attention", kWarps * floats), stream>>>(
      out, log_sum_exp, in, rows);
  check_launch("attention_forward_kernel");
}

int64_t attention_backward_workspace(int64_t tokens, int64_t heads, int64_t rope_dim) {
  return (aligned_row_sums(tokens * heads) + tokens * heads * rope_dim) * static_cast<int64_t>(sizeof(float));
}

template <typename T>
void attention_backward(const cpu::AttentionGradients<T>& gradients, const T* d_out, const T* out,
                        const float* log_sum_exp, const cpu::AttentionInputs<T>& in, int64_t tokens, void* workspace,
                        cudaStream_t stream) {
  const int64_t rows = tokens * in.heads;
  if (rows <= 0) return;
  float* delta = static_cast<float*>(workspace);
  float* d_key_rope = delta + aligned_row_sums(rows);
  const int64_t floats = in.nope_dim + in.rope_dim + in.value_dim;
  const size_t bytes = shared_bytes("attention_backward", kWarps * 2 * floats);
  row_dots(delta, d_out, out, rows, in.value_dim, stream);
  attention_backward_query_kernel<<<blocks_of_rows(rows), kThreads, bytes, stream>>>(gradients, d_out, log_sum_exp,
                                                                                     delta, in, rows);
  check_launch("attention_backward_query_kernel");
  attention_backward_key_kernel<<<blocks_of_rows(rows), kThreads, bytes, stream>>>(gradients, d_key_rope, d_out,
                                                                                   log_sum_exp, delta, in, rows);
  check_launch("attention_backward_key_kernel");
  sum_heads(gradients.d_key_rope, gradients.ld_d_key_rope, d_key_rope, tokens, in.heads, in.rope_dim, stream);
}

template <typename T>
void row_dots(float* delta, const T* d_out, const T* out, int64_t rows, int64_t width, cudaStream_t stream) {
  row_dots_kernel<<<blocks_of_rows(rows), kThreads, 0, stream>>>(delta, d_out, out, rows, width);
  check_launch("row_dots_kernel");
}

template <typename T>
void sum_heads(T* d_key_rope, int64_t ld, const float* parts, int64_t tokens, int64_t heads, int64_t rope_dim,
               cudaStream_t stream) {
  if (rope_dim == 0) return;
  sum_heads_kernel<<<blocks_for<kThreads>(tokens * rope_dim), kThreads, 0, stream>>>(d_key_rope, ld, parts, tokens,
                                                                                     heads, rope_dim);
  check_launch("sum_heads_kernel");
}

template <typename T>
void latent_attention(T* out, const LatentRows<T>& in, cudaStream_t stream) {
  const int64_t rows = in.tokens * in.heads;
  if (rows <= 0) return;
  const int64_t floats = in.latent_dim + in.rope_dim + kWarps * in.latent_dim;
  latent_attention_kernel<<<static_cast<unsigned>(rows), kThreads, shared_bytes("latent_attention", floats), stream>>>(
      out, in);
  check_launch("latent_attention_kernel");
}

template <typename T>
void copy_sequence_rows(T* out, const T* in, int64_t width, int64_t tokens, const SequenceRows& rows,
                        cudaStream_t stream) {
  if (tokens <= 0) return;
  copy_sequence_rows_kernel<<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(out, in, width, rows);
  check_launch("copy_sequence_rows_kernel");
}

template <typename T>
void write_latent_cache(T* cache, int64_t entries, const int32_t* slot, const T* latent, int64_t ld_latent,
                        int64_t latent_dim, const T* key_rope, int64_t ld_key_rope, int64_t rope_dim, int64_t tokens,
                        cudaStream_t stream) {
  if (tokens <= 0) return;
  write_latent_cache_kernel<<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(
      cache, entries, slot, latent, ld_latent, latent_dim, key_rope, ld_key_rope, rope_dim);
  check_launch("write_latent_cache_kernel");
}

#define DT_INSTANTIATE(T)                                                                                      \
  template void row_dots(float*, const T*, const T*, int64_t, int64_t, cudaStream_t);                          \
  template void sum_heads(T*, int64_t, const float*, int64_t, int64_t, int64_t, cudaStream_t);                 \
  template void attention_forward(T*, float*, const cpu::AttentionInputs<T>&, int64_t, cudaStream_t);          \
  template void attention_backward(const cpu::AttentionGradients<T>&, const T*, const T*, const float*,        \
                                   const cpu::AttentionInputs<T>&, int64_t, void*, cudaStream_t);              \
  template void latent_attention(T*, const LatentRows<T>&, cudaStream_t);                                      \
  template void copy_sequence_rows(T*, const T*, int64_t, int64_t, const SequenceRows&, cudaStream_t);         \
  template void write_latent_cache(T*, int64_t, const int32_t*, const T*, int64_t, int64_t, const T*, int64_t, \
                                   int64_t, int64_t, cudaStream_t);
DT_INSTANTIATE(float)
DT_INSTANTIATE(bfloat16)
#undef DT_INSTANTIATE

}  // namespace deeptitan::cuda
