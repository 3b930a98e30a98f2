// A block takes 128 rows of one head, a warp 16 of them, and goes over tiles of the keys (or queries) that they meet.
// Tiles are 128 tokens of the batch, whatever documents they belong to: what a row does not see is masked, and tiles
// that no row of the block sees are left out.
//
// forward:   S = Q K^T; P = softmax(S); O += P V
// queries:   S and dP = dO V^T anew; dS = P (dP - delta); dQ += dS K
// keys:      the same transposed: P^T and dS^T; dV += P^T dO; dK += dS^T Q
//
// P and dS are rounded to bf16 for their products, sums are fp32.

#include "core/error.h"
#include "kernels/cuda/attention/attention_parts.h"
#include "kernels/cuda/attention/find_document.cuh"
#include "kernels/cuda/attention/tensor_core_attention.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/mma.cuh"

namespace deeptitan::cuda {
namespace {

using Inputs = cpu::AttentionInputs<bfloat16>;
using Gradients = cpu::AttentionGradients<bfloat16>;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = kWarps * 16;  // of a block
constexpr int kKeys = 64;           // of a tile that the rows' loop loads
constexpr int kQueries = 32;        // of a tile that the keys' loop loads
constexpr float kLog2E = 1.4426950408889634f;

/// Bytes of tiles in shared memory; a row ends with 16 bytes of nothing, so that eight rows lie in different banks.
template <int kKeyDim, int kValueDim>
struct Tiles {
  static constexpr int kKeyStride = kKeyDim + 8;
  static constexpr int kValueStride = kValueDim + 8;
  __host__ __device__ static constexpr int key_bytes(int rows) { return rows * kKeyStride * 2; }
  __host__ __device__ static constexpr int value_bytes(int rows) { return rows * kValueStride * 2; }
};

/// How kCount rows are shared out: kLanes neighbouring threads a row, which each take every kLanes-th 16 bytes of it.
template <int kCount>
struct RowShare {
  static constexpr int kLanes = kCount >= 64 ? kThreads / 64 : kThreads / kCount;
  static constexpr int kRowsAtOnce = kThreads / kLanes;
  static constexpr int kStep = kLanes * 8;
};

/// kCount rows of kWidth elements from token `first` on, zeros from `tokens` on.
template <int kCount, int kWidth, int kStride>
__device__ __forceinline__ void load_rows(uint32_t tile, const bfloat16* source, int64_t source_stride, int64_t first,
                                          int64_t tokens) {
  using Share = RowShare<kCount>;
  const int column = static_cast<int>(threadIdx.x) % Share::kLanes * 8;
#pragma unroll
  for (int pass = 0; pass < kCount / Share::kRowsAtOnce; ++pass) {
    const int row = static_cast<int>(threadIdx.x) / Share::kLanes + pass * Share::kRowsAtOnce;
    const bool inside = first + row < tokens;
    const bfloat16* from = source + (inside ? first + row : 0) * source_stride + column;
    const uint32_t to = tile + 2 * (row * kStride + column);
#pragma unroll
    for (int c = 0; c < kWidth; c += Share::kStep) {
      if (kWidth % Share::kStep == 0 || c + column < kWidth) copy_async(to + 2 * c, from + c, inside);
    }
  }
}

/// The nope part of a key; the rest is the rope part.
template <int kKeyDim>
inline constexpr int kNopeDim = kKeyDim / 3 * 2;

/// kCount keys of a head, nope part and then the rope part that all heads share, and its values.
template <int kCount, int kKeyDim, int kValueDim>
__device__ __forceinline__ void load_keys_and_values(uint32_t key_tile, uint32_t value_tile, const Inputs& in,
                                                     int64_t head, int64_t first, int64_t tokens) {
  using T = Tiles<kKeyDim, kValueDim>;
  using Share = RowShare<kCount>;
  constexpr int kNope = kNopeDim<kKeyDim>;
  static_assert(kNope % Share::kStep == 0 && kKeyDim % Share::kStep == 0 && kValueDim % Share::kStep == 0);
  const int column = static_cast<int>(threadIdx.x) % Share::kLanes * 8;
#pragma unroll
  for (int pass = 0; pass < kCount / Share::kRowsAtOnce; ++pass) {
    const int row = static_cast<int>(threadIdx.x) / Share::kLanes + pass * Share::kRowsAtOnce;
    const bool inside = first + row < tokens;
    const int64_t token = inside ? first + row : 0;
    const bfloat16* nope = in.key_value + (token * in.heads + head) * (kNope + kValueDim) + column;
    const bfloat16* rope = in.key_rope + token * in.ld_key_rope + column;
    const uint32_t key = key_tile + 2 * (row * T::kKeyStride + column);
    const uint32_t value = value_tile + 2 * (row * T::kValueStride + column);
#pragma unroll
    for (int c = 0; c < kKeyDim; c += Share::kStep) {
      copy_async(key + 2 * c, c < kNope ? nope + c : rope + c - kNope, inside);
    }
#pragma unroll
    for (int c = 0; c < kValueDim; c += Share::kStep) copy_async(value + 2 * c, nope + kNope + c, inside);
  }
}

/// 2^x, to two units of the last place; 0 below 2^-126.
__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// Where a token's document begins and ends; nothing lies between for a token that no document holds.
struct Range {
  int first, end;
};
__device__ __forceinline__ Range range_of(const Inputs& in, int64_t token, int64_t tokens) {
  const int64_t document = token < tokens ? find_document(in.document_offset, in.documents, token) : -1;
  if (document < 0) return {static_cast<int>(token) + 1, static_cast<int>(token)};
  return {in.document_offset[document], in.document_offset[document + 1]};
}

/// acc [16, 8 kTiles] += the rows of tile A at `a_row`.. (kStepsA times 16 columns) times rows n.. of tile B.
template <int kDim, int kStride, int kTiles>
__device__ __forceinline__ void multiply_rows(float (&acc)[kTiles][4], uint32_t a_tile, uint32_t b_tile, int lane) {
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t a[4];
    load_a<kStride>(a, a_tile, k, lane);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t b[4];
      load_b_of_rows<kStride>(b, b_tile, n * 8, k, lane);
      mma_bf16(acc[n], a, b[0], b[1]);
      mma_bf16(acc[n + 1], a, b[2], b[3]);
    }
  }
}

/// acc [16, 8 kTiles] += p [16, 16 kSteps] times the rows of tile B.
template <int kStride, int kTiles, int kSteps>
__device__ __forceinline__ void multiply_packed(float (&acc)[kTiles][4], const uint32_t (&p)[kSteps][4],
                                                uint32_t b_tile, int lane) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t b[4];
      load_b<kStride>(b, b_tile, n * 8, step * 16, lane);
      mma_bf16(acc[n], p[step], b[0], b[1]);
      mma_bf16(acc[n + 1], p[step], b[2], b[3]);
    }
  }
}

template <int kTiles>
__device__ __forceinline__ void clear(float (&acc)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[n][i] = 0;
  }
}

template <int kTiles>
__device__ __forceinline__ void pack(uint32_t (&p)[kTiles / 2][4], const float (&x)[kTiles][4]) {
#pragma unroll
  for (int step = 0; step < kTiles / 2; ++step) {
    p[step][0] = pack_bf16(x[2 * step][0], x[2 * step][1]);
    p[step][1] = pack_bf16(x[2 * step][2], x[2 * step][3]);
    p[step][2] = pack_bf16(x[2 * step + 1][0], x[2 * step + 1][1]);
    p[step][3] = pack_bf16(x[2 * step + 1][2], x[2 * step + 1][3]);
  }
}

/// Rows of [16, 8 kTiles], rounded, to `rows` (this warp's first row), `stride` elements apart; `count` of them exist.
template <int kTiles>
__device__ __forceinline__ void store_rows(bfloat16* rows, int64_t stride, const float (&acc)[kTiles][4], float low,
                                           float high, int64_t count, int lane) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int column = n * 8 + lane % 4 * 2;
    if (lane / 4 < count) {
      *reinterpret_cast<uint32_t*>(rows + (lane / 4) * stride + column) = pack_bf16(acc[n][0] * low, acc[n][1] * low);
    }
    if (lane / 4 + 8 < count) {
      *reinterpret_cast<uint32_t*>(rows + (lane / 4 + 8) * stride + column) =
          pack_bf16(acc[n][2] * high, acc[n][3] * high);
    }
  }
}

/// The largest of a value in the four lanes that hold a row, and their sum.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

template <int kKeyDim, int kValueDim>
__global__ void __launch_bounds__(kThreads, 1)
    tensor_core_attention_forward_kernel(bfloat16* out, float* log_sum_exp, Inputs in, int64_t tokens) {
  using T = Tiles<kKeyDim, kValueDim>;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t head = blockIdx.y;
  const int64_t q0 = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * kRows;  // the longest first
  const uint32_t base = shared_address(shared);
  const auto key_tile = [&](int i) { return base + i * (T::key_bytes(kKeys) + T::value_bytes(kKeys)); };
  const auto value_tile = [&](int i) { return key_tile(i) + T::key_bytes(kKeys); };

  // The queries stay in registers; their tile is where the keys come later.
  static_assert(T::key_bytes(kRows) <= 2 * (T::key_bytes(kKeys) + T::value_bytes(kKeys)));
  load_rows<kRows, kKeyDim, T::kKeyStride>(base, in.query + head * kKeyDim, in.heads * kKeyDim, q0, tokens);
  copy_async_commit();
  const int64_t row = q0 + warp * 16 + lane / 4;
  const Range low = range_of(in, row, tokens), high = range_of(in, row + 8, tokens);
  copy_async_wait<0>();
  __syncthreads();
  uint32_t query[kKeyDim / 16][4];
#pragma unroll
  for (int k = 0; k < kKeyDim / 16; ++k) {
    load_a<T::kKeyStride>(query[k], base + 2 * warp * 16 * T::kKeyStride, k * 16, lane);
  }
  __syncthreads();

  // Whether all rows of this warp see all keys of a tile: nothing of it is masked.
  const int newest = __shfl_sync(kAllLanes, high.first, kWarp - 1);  // where the last row's document begins
  const int oldest = static_cast<int>(q0) + warp * 16;
  const auto seen_whole = [&](int tile) { return newest <= tile * kKeys && tile * kKeys + kKeys - 1 <= oldest; };
  const int64_t last = (q0 + kRows < tokens ? q0 + kRows : tokens) - 1;
  const int first_tile = range_of(in, q0, tokens).first / kKeys;
  const int tiles = static_cast<int>(last / kKeys) + 1;
  const auto load = [&](int tile) {
    load_keys_and_values<kKeys, kKeyDim, kValueDim>(key_tile(tile % 2), value_tile(tile % 2), in, head,
                                                    static_cast<int64_t>(tile) * kKeys, tokens);
  };
  if (first_tile < tiles) load(first_tile);
  copy_async_commit();

  float acc[kValueDim / 8][4];
  clear(acc);
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  const float scale = in.scale * kLog2E;
  for (int tile = first_tile; tile < tiles; ++tile) {
    if (tile + 1 < tiles) load(tile + 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    float s[kKeys / 8][4];
    clear(s);
#pragma unroll
    for (int k = 0; k < kKeyDim / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; n += 2) {
        uint32_t b[4];
        load_b_of_rows<T::kKeyStride>(b, key_tile(tile % 2), n * 8, k * 16, lane);
        mma_bf16(s[n], query[k], b[0], b[1]);
        mma_bf16(s[n + 1], query[k], b[2], b[3]);
      }
    }
    if (!seen_whole(tile)) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = tile * kKeys + n * 8 + lane % 4 * 2 + i % 2;
          const bool seen = i < 2 ? low.first <= key && key <= row : high.first <= key && key <= row + 8;
          if (!seen) s[n][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float new_max = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) new_max = fmaxf(new_max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      new_max = fmaxf(max[half], row_max(new_max));
      const float subtracted = new_max == -INFINITY ? 0.0f : new_max * scale;  // a row that has seen nothing yet
      const float correction = exp2_fast(max[half] * scale - subtracted);
      max[half] = new_max;
      float tile_sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          s[n][i] = exp2_fast(fmaf(s[n][i], scale, -subtracted));
          tile_sum += s[n][i];
        }
      }
      sum[half] = sum[half] * correction + tile_sum;
#pragma unroll
      for (int n = 0; n < kValueDim / 8; ++n) {
        acc[n][2 * half] *= correction;
        acc[n][2 * half + 1] *= correction;
      }
    }
    uint32_t p[kKeys / 16][4];
    pack(p, s);
    multiply_packed<T::kValueStride>(acc, p, value_tile(tile % 2), lane);
    __syncthreads();
  }
  const int64_t count = tokens - (q0 + warp * 16);
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = row_sum(sum[half]);
    const bool held = half == 0 ? low.first <= row : high.first <= row + 8;
    inverse[half] = held ? 1.0f / total : 0.0f;
    if (log_sum_exp != nullptr && lane % 4 == 0 && lane / 4 + 8 * half < count) {
      log_sum_exp[(row + 8 * half) * in.heads + head] = held ? max[half] * in.scale + logf(total) : 0.0f;
    }
  }
  const int64_t stride = in.heads * kValueDim;
  store_rows(out + (q0 + warp * 16) * stride + head * kValueDim, stride, acc, inverse[0], inverse[1], count, lane);
}

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
  const auto key_tile = [&](int i) { return base + i * (T::key_bytes(kKeys) + T::value_bytes(kKeys)); };
  const auto value_tile = [&](int i) { return key_tile(i) + T::key_bytes(kKeys); };
  load_rows<kRows, kKeyDim, T::kKeyStride>(queries, in.query + head * kKeyDim, in.heads * kKeyDim, q0, tokens);
  load_rows<kRows, kValueDim, T::kValueStride>(d_outs, d_out + head * kValueDim, in.heads * kValueDim, q0, tokens);

  const int64_t row = q0 + warp * 16 + lane / 4;
  const Range low = range_of(in, row, tokens), high = range_of(in, row + 8, tokens);
  RowSums sums[2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= tokens) continue;
    const int64_t at = (row + 8 * half) * in.heads + head;
    sums[half] = {log_sum_exp[at] * kLog2E, delta[at]};
  }
  // Whether all rows of this warp see all keys of a tile: nothing of it is masked.
  const int newest = __shfl_sync(kAllLanes, high.first, kWarp - 1);  // where the last row's document begins
  const int oldest = static_cast<int>(q0) + warp * 16;
  const auto seen_whole = [&](int tile) { return newest <= tile * kKeys && tile * kKeys + kKeys - 1 <= oldest; };
  const int64_t last = (q0 + kRows < tokens ? q0 + kRows : tokens) - 1;
  const int first_tile = range_of(in, q0, tokens).first / kKeys;
  const int tiles = static_cast<int>(last / kKeys) + 1;
  const auto load = [&](int tile) {
    load_keys_and_values<kKeys, kKeyDim, kValueDim>(key_tile(tile % 2), value_tile(tile % 2), in, head,
                                                    static_cast<int64_t>(tile) * kKeys, tokens);
  };
  if (first_tile < tiles) load(first_tile);
  copy_async_commit();

  float acc[kKeyDim / 8][4];
  clear(acc);
  const float scale = in.scale * kLog2E;
  for (int tile = first_tile; tile < tiles; ++tile) {
    if (tile + 1 < tiles) load(tile + 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    float s[kKeys / 8][4], dp[kKeys / 8][4];
    clear(s);
    clear(dp);
    multiply_rows<kKeyDim, T::kKeyStride>(s, queries + 2 * warp * 16 * T::kKeyStride, key_tile(tile % 2), lane);
    multiply_rows<kValueDim, T::kValueStride>(dp, d_outs + 2 * warp * 16 * T::kValueStride, value_tile(tile % 2), lane);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float p = exp2_fast(fmaf(s[n][i], scale, -sums[i / 2].log_sum_exp));
        s[n][i] = p * (dp[n][i] - sums[i / 2].delta);
      }
    }
    if (!seen_whole(tile)) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = tile * kKeys + n * 8 + lane % 4 * 2 + i % 2;
          const bool seen = i < 2 ? low.first <= key && key <= row : high.first <= key && key <= row + 8;
          if (!seen) s[n][i] = 0.0f;
        }
      }
    }
    uint32_t ds[kKeys / 16][4];
    pack(ds, s);
    multiply_packed<T::kKeyStride>(acc, ds, key_tile(tile % 2), lane);
    __syncthreads();
  }
  copy_async_wait<0>();
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

/// Gives a kernel its shared memory, and launches it over the batch's tiles and heads.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const char* name, int shared_bytes, const Inputs& in, int64_t tokens,
            cudaStream_t stream, const Arguments&... arguments) {
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  const dim3 grid(static_cast<unsigned>((tokens + kRows - 1) / kRows), static_cast<unsigned>(in.heads));
  kernel<<<grid, kThreads, shared_bytes, stream>>>(arguments...);
  check_launch(name);
}

template <int kKeyDim, int kValueDim>
struct Kernels {
  using T = Tiles<kKeyDim, kValueDim>;
  static constexpr int kLoopBytes = 2 * (T::key_bytes(kKeys) + T::value_bytes(kKeys));
  static constexpr int kRowBytes = T::key_bytes(kRows) + T::value_bytes(kRows);
  static constexpr int kMostBytes = kRowBytes + kLoopBytes;

  static void forward(bfloat16* out, float* log_sum_exp, const Inputs& in, int64_t tokens, cudaStream_t stream) {
    launch(tensor_core_attention_forward_kernel<kKeyDim, kValueDim>, "tensor_core_attention_forward_kernel", kLoopBytes,
           in, tokens, stream, out, log_sum_exp, in, tokens);
  }
  static void backward(const Gradients& gradients, float* d_key_rope, const bfloat16* d_out, const float* log_sum_exp,
                       const float* delta, const Inputs& in, int64_t tokens, cudaStream_t stream) {
    launch(tensor_core_attention_query_gradient_kernel<kKeyDim, kValueDim>,
           "tensor_core_attention_query_gradient_kernel", kMostBytes, in, tokens, stream, gradients.d_query, d_out,
           log_sum_exp, delta, in, tokens);
    launch(tensor_core_attention_key_gradient_kernel<kKeyDim, kValueDim>, "tensor_core_attention_key_gradient_kernel",
           kRowBytes + 2 * (T::key_bytes(kQueries) + T::value_bytes(kQueries)), in, tokens, stream,
           gradients.d_key_value, d_key_rope, d_out, log_sum_exp, delta, in, tokens);
  }
};

/// Calls body with the kernels of these heads; false where there are none.
template <typename Body>
bool with_kernels(const Inputs& in, const Body& body) {
  const int64_t key_dim = in.nope_dim + in.rope_dim;
  if (in.nope_dim * 3 != key_dim * 2) return false;
  if (key_dim == 192 && in.value_dim == 128) {
    body(Kernels<192, 128>{});
    return true;
  }
  if (key_dim == 96 && in.value_dim == 64) {
    body(Kernels<96, 64>{});
    return true;
  }
  return false;
}

bool aligned(const bfloat16* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

}  // namespace

bool tensor_core_attention_fits(const Inputs& in) {
  if (!aligned(in.query, 8) || !aligned(in.key_value, 8) || !aligned(in.key_rope, in.ld_key_rope)) return false;
  static const int most_shared = [] {
    int device = 0, bytes = 0;
    DT_CUDA_CHECK(cudaGetDevice(&device));
    DT_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return bytes;
  }();
  int needed = 0;
  return with_kernels(in, [&](auto kernels) { needed = decltype(kernels)::kMostBytes; }) && needed <= most_shared;
}

void tensor_core_attention_forward(bfloat16* out, float* log_sum_exp, const Inputs& in, int64_t tokens,
                                   cudaStream_t stream) {
  if (tokens <= 0 || in.heads <= 0) return;
  const bool found =
      with_kernels(in, [&](auto kernels) { decltype(kernels)::forward(out, log_sum_exp, in, tokens, stream); });
  DT_CHECK(found, "attention on tensor cores has no kernel for heads of {} and {}", in.nope_dim + in.rope_dim,
           in.value_dim);
}

void tensor_core_attention_backward(const Gradients& gradients, const bfloat16* d_out, const bfloat16* out,
                                    const float* log_sum_exp, const Inputs& in, int64_t tokens, void* workspace,
                                    cudaStream_t stream) {
  const int64_t rows = tokens * in.heads;
  if (rows <= 0) return;
  float* delta = static_cast<float*>(workspace);
  float* d_key_rope = delta + aligned_row_sums(rows);
  row_dots(delta, d_out, out, rows, in.value_dim, stream);
  const bool found = with_kernels(in, [&](auto kernels) {
    decltype(kernels)::backward(gradients, d_key_rope, d_out, log_sum_exp, delta, in, tokens, stream);
  });
  DT_CHECK(found, "attention on tensor cores has no kernel for heads of {} and {}", in.nope_dim + in.rope_dim,
           in.value_dim);
  sum_heads(gradients.d_key_rope, gradients.ld_d_key_rope, d_key_rope, tokens, in.heads, in.rope_dim, stream);
}

}  // namespace deeptitan::cuda
