#pragma once

// What the passes of attention on tensor cores share. A block takes 128 rows of one head, a warp 16 of them, and goes
// over tiles of the keys (or queries) that they meet. Tiles are 128 tokens of the batch, whatever documents they belong
// to: what a row does not see is masked, and tiles that no row of the block sees are left out.

#include <cstdint>

#include "kernels/cuda/attention/find_document.cuh"
#include "kernels/cuda/attention/row_softmax.cuh"
#include "kernels/cuda/attention/tensor_core_attention.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/mma.cuh"

namespace deeptitan::cuda::tensor_core_attention {

using Inputs = cpu::AttentionInputs<bfloat16>;

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = kWarps * 16;  // of a block
constexpr int kKeys = 64;           // of a tile that the rows' loop loads
constexpr int kQueries = 32;        // of a tile that the keys' loop loads

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

/// Where a token's document begins and ends; nothing lies between for a token that no document holds.
struct Range {
  int first, end;
};
__device__ __forceinline__ Range range_of(const Inputs& in, int64_t token, int64_t tokens) {
  const int64_t document = token < tokens ? find_document(in.document_offset, in.documents, token) : -1;
  if (document < 0) return {static_cast<int>(token) + 1, static_cast<int>(token)};
  return {in.document_offset[document], in.document_offset[document + 1]};
}

/// The tiles of keys that a block's rows see, two at a time from `base` on in shared memory, and what of them a lane's
/// rows, `row` and 8 more, see.
template <int kKeyDim, int kValueDim>
struct SeenKeys {
  using T = Tiles<kKeyDim, kValueDim>;
  const Inputs& in;
  int64_t head, tokens, row;
  uint32_t base;
  Range low, high;
  int newest;  // where the document of this warp's last row begins
  int oldest;  // this warp's first row
  int first_tile, tiles;

  __device__ __forceinline__ SeenKeys(const Inputs& inputs, uint32_t at, int64_t of_head, int64_t first_row,
                                      int64_t of_tokens, int warp, int lane)
      : in(inputs), head(of_head), tokens(of_tokens), row(first_row + warp * 16 + lane / 4), base(at) {
    low = range_of(in, row, tokens);
    high = range_of(in, row + 8, tokens);
    newest = __shfl_sync(kAllLanes, high.first, kWarp - 1);
    oldest = static_cast<int>(first_row) + warp * 16;
    const int64_t last = (first_row + kRows < tokens ? first_row + kRows : tokens) - 1;
    first_tile = range_of(in, first_row, tokens).first / kKeys;
    tiles = static_cast<int>(last / kKeys) + 1;
  }
  __device__ __forceinline__ uint32_t key_tile(int tile) const {
    return base + tile % 2 * (T::key_bytes(kKeys) + T::value_bytes(kKeys));
  }
  __device__ __forceinline__ uint32_t value_tile(int tile) const { return key_tile(tile) + T::key_bytes(kKeys); }

  /// Calls body(tile) for each, in their order, while the next is on its way; the block meets before and after.
  template <typename Body>
  __device__ __forceinline__ void for_each(const Body& body) const {
    const auto load = [&](int tile) {
      load_keys_and_values<kKeys, kKeyDim, kValueDim>(key_tile(tile), value_tile(tile), in, head,
                                                      static_cast<int64_t>(tile) * kKeys, tokens);
    };
    if (first_tile < tiles) load(first_tile);
    copy_async_commit();
    for (int tile = first_tile; tile < tiles; ++tile) {
      if (tile + 1 < tiles) load(tile + 1);
      copy_async_commit();
      copy_async_wait<1>();
      __syncthreads();
      body(tile);
      __syncthreads();
    }
    copy_async_wait<0>();
  }

  /// s becomes `hidden` where a row does not see a key.
  __device__ __forceinline__ void hide(float (&s)[kKeys / 8][4], int tile, int lane, float hidden) const {
    if (newest <= tile * kKeys && tile * kKeys + kKeys - 1 <= oldest) return;  // all of the warp's rows see all
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = tile * kKeys + n * 8 + lane % 4 * 2 + i % 2;
        const bool seen = i < 2 ? low.first <= key && key <= row : high.first <= key && key <= row + 8;
        if (!seen) s[n][i] = hidden;
      }
    }
  }
};

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

/// Bytes that the kernels of a head ask for: of the loop over tiles of keys, of a block's rows, the most of any.
template <int kKeyDim, int kValueDim>
struct SharedBytes {
  using T = Tiles<kKeyDim, kValueDim>;
  static constexpr int kLoop = 2 * (T::key_bytes(kKeys) + T::value_bytes(kKeys));
  static constexpr int kQueryLoop = 2 * (T::key_bytes(kQueries) + T::value_bytes(kQueries));
  static constexpr int kOfRows = T::key_bytes(kRows) + T::value_bytes(kRows);
  static constexpr int kMost = kOfRows + kLoop;
};

/// Gives a kernel its shared memory, and launches it over the batch's tiles and heads.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const char* name, int shared_bytes, const Inputs& in, int64_t tokens,
            cudaStream_t stream, const Arguments&... arguments) {
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  const dim3 grid(static_cast<unsigned>((tokens + kRows - 1) / kRows), static_cast<unsigned>(in.heads));
  kernel<<<grid, kThreads, shared_bytes, stream>>>(arguments...);
  check_launch(name);
}

/// Sizes of a head, as a value.
template <int kKey, int kValue>
struct HeadOf {
  static constexpr int kKeyDim = kKey, kValueDim = kValue;
};

/// Calls body with the sizes of these heads; false where there is no kernel for them.
template <typename Body>
bool with_head(const Inputs& in, const Body& body) {
  const int64_t key_dim = in.nope_dim + in.rope_dim;
  if (in.nope_dim * 3 != key_dim * 2) return false;
  if (key_dim == 192 && in.value_dim == 128) {
    body(HeadOf<192, 128>{});
    return true;
  }
  if (key_dim == 96 && in.value_dim == 64) {
    body(HeadOf<96, 64>{});
    return true;
  }
  return false;
}

}  // namespace deeptitan::cuda::tensor_core_attention
