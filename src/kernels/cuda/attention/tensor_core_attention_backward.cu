// queries:   S = Q K^T, P = exp(S - log_sum_exp) and dP = dO V^T; dS = P (dP - delta); dQ += dS K
// keys:      the same transposed: P^T and dS^T; dV += P^T dO; dK += dS^T Q
//
// P and dS are rounded to bf16 for their products, sums are fp32.

#include "core/error.h"
#include "kernels/cuda/attention/attention_parts.h"
#include "kernels/cuda/attention/tensor_core_attention.cuh"

namespace deeptitan::cuda {
namespace tensor_core_attention {
namespace {

/// dS where P and dP are known: this row's sums of exponentials and of d_out . out.
struct RowSums {
  float log_sum_exp, delta;
};

template <int kKeyDim, int kValueDim>
__global__ void __launch_bounds__(kThreads, 1)
    tensor_core_attention_query_gradient_kernel(bfloat16* d_query, const bfloat16* d_out, const float* log_sum_exp,
                                                const float* delta, Inputs in, int64_t tokens) {
  using T = Tiles<kKeyDim, kValueDim>;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t head = blockIdx.y;
  const int64_t q0 = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;
  const uint32_t queries = shared_address(shared);
  const uint32_t d_outs = queries + T::key_bytes(kRows);
  const uint32_t base = d_outs + T::value_bytes(kRows);
  load_rows<kRows, kKeyDim, T::kKeyStride>(queries, in.query + head * kKeyDim, in.heads * kKeyDim, q0, tokens);
  load_rows<kRows, kValueDim, T::kValueStride>(d_outs, d_out + head * kValueDim, in.heads * kValueDim, q0, tokens);

  const SeenKeys<kKeyDim, kValueDim> seen(in, base, head, q0, tokens, warp, lane);
  RowSums sums[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (seen.row + 8 * half >= tokens) continue;
    const int64_t at = (seen.row + 8 * half) * in.heads + head;
    sums[half] = {log_sum_exp[at] * kLog2E, delta[at]};
  }
  float acc[kKeyDim / 8][4];
  clear(acc);
  const float scale = in.scale * kLog2E;
  seen.for_each([&](int tile) {
    float s[kKeys / 8][4], dp[kKeys / 8][4];
    clear(s);
    clear(dp);
    multiply_rows<kKeyDim, T::kKeyStride>(s, queries + 2 * warp * 16 * T::kKeyStride, seen.key_tile(tile), lane);
    multiply_rows<kValueDim, T::kValueStride>(dp, d_outs + 2 * warp * 16 * T::kValueStride, seen.value_tile(tile),
                                              lane);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float p = exp2_fast(fmaf(s[n][i], scale, -sums[i / 2].log_sum_exp));
        s[n][i] = p * (dp[n][i] - sums[i / 2].delta);
      }
    }
    seen.hide(s, tile, lane, 0.0f);
    uint32_t ds[kKeys / 16][4];
    pack(ds, s);
    multiply_packed<T::kKeyStride>(acc, ds, seen.key_tile(tile), lane);
  });
  const int64_t stride = in.heads * kKeyDim;
  store_rows(d_query + (q0 + warp * 16) * stride + head * kKeyDim, stride, acc, in.scale, in.scale,
             tokens - (q0 + warp * 16), lane);
}

/// d_key_rope gets each head's part, [T, H, Dr].
template <int kKeyDim, int kValueDim>
__global__ void __launch_bounds__(kThreads, 1)
    tensor_core_attention_key_gradient_kernel(bfloat16* d_key_value, float* d_key_rope, const bfloat16* d_out,
                                              const float* log_sum_exp, const float* delta, Inputs in, int64_t tokens) {
  using T = Tiles<kKeyDim, kValueDim>;
  extern __shared__ __align__(128) char shared[];
  __shared__ RowSums sums[2][kQueries];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t head = blockIdx.y;
  const int64_t k0 = static_cast<int64_t>(blockIdx.x) * kRows;
  const uint32_t keys = shared_address(shared);
  const uint32_t values = keys + T::key_bytes(kRows);
  const uint32_t base = values + T::value_bytes(kRows);
  const auto query_tile = [&](int i) { return base + i * (T::key_bytes(kQueries) + T::value_bytes(kQueries)); };
  const auto d_out_tile = [&](int i) { return query_tile(i) + T::key_bytes(kQueries); };
  load_keys_and_values<kRows, kKeyDim, kValueDim>(keys, values, in, head, k0, tokens);

  const int64_t key = k0 + warp * 16 + lane / 4;
  const Range low = range_of(in, key, tokens), high = range_of(in, key + 8, tokens);
  const int64_t last = (k0 + kRows < tokens ? k0 + kRows : tokens) - 1;
  const Range of_last = range_of(in, last, tokens);
  // Queries from `newest` on and before `oldest_end` see all keys of this warp.
  const int newest = static_cast<int>(k0) + warp * 16 + 15;
  const int oldest_end = __shfl_sync(kAllLanes, low.end, 0);
  const int first_tile = static_cast<int>(k0 / kQueries);
  // Queries behind the last key's document see none of these keys.
  const int64_t end = of_last.end > last ? of_last.end : last + 1;
  const int tiles = static_cast<int>((end + kQueries - 1) / kQueries);
  const auto load = [&](int tile) {
    const int64_t first = static_cast<int64_t>(tile) * kQueries;
    load_rows<kQueries, kKeyDim, T::kKeyStride>(query_tile(tile % 2), in.query + head * kKeyDim, in.heads * kKeyDim,
                                                first, tokens);
    load_rows<kQueries, kValueDim, T::kValueStride>(d_out_tile(tile % 2), d_out + head * kValueDim,
                                                    in.heads * kValueDim, first, tokens);
    if (threadIdx.x < kQueries) {
      const int64_t token = first + threadIdx.x;
      const int64_t at = token * in.heads + head;
      sums[tile % 2][threadIdx.x] = token < tokens ? RowSums{log_sum_exp[at] * kLog2E, delta[at]} : RowSums{0.0f, 0.0f};
    }
  };
  load(first_tile);
  copy_async_commit();

  float d_key[kKeyDim / 8][4], d_value[kValueDim / 8][4];
  clear(d_key);
  clear(d_value);
  const float scale = in.scale * kLog2E;
  for (int tile = first_tile; tile < tiles; ++tile) {
    if (tile + 1 < tiles) load(tile + 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    const uint32_t queries = query_tile(tile % 2), d_outs = d_out_tile(tile % 2);
    float s[kQueries / 8][4], dp[kQueries / 8][4];
    clear(s);
    multiply_rows<kKeyDim, T::kKeyStride>(s, keys + 2 * warp * 16 * T::kKeyStride, queries, lane);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = n * 8 + lane % 4 * 2 + i % 2;
        s[n][i] = exp2_fast(fmaf(s[n][i], scale, -sums[tile % 2][column].log_sum_exp));
      }
    }
    const bool whole = newest <= tile * kQueries && tile * kQueries + kQueries <= oldest_end;
    if (!whole) {
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int query = tile * kQueries + n * 8 + lane % 4 * 2 + i % 2;
          const bool seen = i < 2 ? key <= query && query < low.end : key + 8 <= query && query < high.end;
          if (!seen) s[n][i] = 0.0f;
        }
      }
    }
    uint32_t p[kQueries / 16][4];
    pack(p, s);
    multiply_packed<T::kValueStride>(d_value, p, d_outs, lane);
    clear(dp);
    multiply_rows<kValueDim, T::kValueStride>(dp, values + 2 * warp * 16 * T::kValueStride, d_outs, lane);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float difference = dp[n][i] - sums[tile % 2][n * 8 + lane % 4 * 2 + i % 2].delta;
        s[n][i] = s[n][i] == 0.0f ? 0.0f : s[n][i] * difference;  // what is not seen may hold anything
      }
    }
    pack(p, s);
    multiply_packed<T::kKeyStride>(d_key, p, queries, lane);
    __syncthreads();
  }
  copy_async_wait<0>();
  const int64_t count = tokens - (k0 + warp * 16);
  const int64_t width = in.nope_dim + in.value_dim, stride = in.heads * width;
  bfloat16* rows = d_key_value + (k0 + warp * 16) * stride + head * width;
  store_rows(rows + in.nope_dim, stride, d_value, 1.0f, 1.0f, count, lane);
  constexpr int kNope = kNopeDim<kKeyDim>;
#pragma unroll
  for (int n = 0; n < kKeyDim / 8; ++n) {
    const int column = n * 8 + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + 8 * half;
      if (row >= count) continue;
      const float left = d_key[n][2 * half] * in.scale, right = d_key[n][2 * half + 1] * in.scale;
      if (column < kNope) {
        *reinterpret_cast<uint32_t*>(rows + row * stride + column) = pack_bf16(left, right);
      } else {
        float* part = d_key_rope + ((k0 + warp * 16 + row) * in.heads + head) * in.rope_dim + column - kNope;
        *reinterpret_cast<float2*>(part) = make_float2(left, right);
      }
    }
  }
}

template <int kKeyDim, int kValueDim>
void launch_backward(const cpu::AttentionGradients<bfloat16>& gradients, float* d_key_rope, const bfloat16* d_out,
                     const float* log_sum_exp, const float* delta, const Inputs& in, int64_t tokens,
                     cudaStream_t stream) {
  using Bytes = SharedBytes<kKeyDim, kValueDim>;
  launch(tensor_core_attention_query_gradient_kernel<kKeyDim, kValueDim>, "tensor_core_attention_query_gradient_kernel",
         Bytes::kOfRows + Bytes::kLoop, in, tokens, stream, gradients.d_query, d_out, log_sum_exp, delta, in, tokens);
  launch(tensor_core_attention_key_gradient_kernel<kKeyDim, kValueDim>, "tensor_core_attention_key_gradient_kernel",
         Bytes::kOfRows + Bytes::kQueryLoop, in, tokens, stream, gradients.d_key_value, d_key_rope, d_out, log_sum_exp,
         delta, in, tokens);
}

}  // namespace
}  // namespace tensor_core_attention

void tensor_core_attention_backward(const cpu::AttentionGradients<bfloat16>& gradients, const bfloat16* d_out,
                                    const bfloat16* out, const float* log_sum_exp,
                                    const cpu::AttentionInputs<bfloat16>& in, int64_t tokens, void* workspace,
                                    cudaStream_t stream) {
  using namespace tensor_core_attention;
  const int64_t rows = tokens * in.heads;
  if (rows <= 0) return;
  float* delta = static_cast<float*>(workspace);
  float* d_key_rope = delta + aligned_row_sums(rows);
  row_dots(delta, d_out, out, rows, in.value_dim, stream);
  const bool found = with_head(in, [&](auto head) {
    using Head = decltype(head);
    launch_backward<Head::kKeyDim, Head::kValueDim>(gradients, d_key_rope, d_out, log_sum_exp, delta, in, tokens,
                                                    stream);
  });
  DT_CHECK(found, "attention on tensor cores has no kernel for heads of {} and {}", in.nope_dim + in.rope_dim,
           in.value_dim);
  sum_heads(gradients.d_key_rope, gradients.ld_d_key_rope, d_key_rope, tokens, in.heads, in.rope_dim, stream);
}

}  // namespace deeptitan::cuda
