#pragma once

// Hopper's attention over cached latents: the warpgroup that scores, and the two that add up a half of the latents'
// columns each.

#include "kernels/cuda/attention/row_softmax.cuh"
#include "kernels/cuda/attention/sm90_latent_attention_load.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/sm90_wgmma_bf16.cuh"

namespace deeptitan::cuda::sm90::latent_attention {

/// The base of a row's weights follows its largest score only where that is this much larger, as a power of two: so
/// seldom that the sums are hardly ever multiplied, and weights stay far from what bf16 and fp32 hold.
constexpr float kSlack = 8;

constexpr int kClearBarrier = 1;  // and 2: a half's own named barrier; 0 is __syncthreads

/// The first kHeldChunks chunks of a tile of queries as operands of products; zeros in rows that are no head.
__device__ __forceinline__ void load_query(uint32_t* q, const Parameters& p, const Work& work, int row, int lane) {
  const int64_t first = static_cast<int64_t>(work.token) * p.in.heads + work.first_head;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool inside = work.first_head + row + 8 * half < p.in.heads;
    const auto* from =
        reinterpret_cast<const uint32_t*>(p.in.query + (first + (inside ? row + 8 * half : 0)) * kWidth) + lane % 4;
#pragma unroll
    for (int i = 0; i < kHeldChunks * 8; ++i) q[2 * i + half] = inside ? from[4 * i] : 0;
  }
}

/// S [64, 64] of a tile of entries, as they come; whole where it returns.
__device__ __forceinline__ void multiply_scores(float* s, const uint32_t* q, const Shared& shared,
                                                Cursor<kHalves>& half, const Cursor<kRopes>& rope) {
  const uint32_t a = make_descriptor(shared.query(0), 0);
  const auto multiply = [&](int chunk, uint32_t entries) {
    const uint32_t b = make_descriptor(entries, 0);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      if (chunk == 0 && step == 0) {
        wgmma_bf16_registers_overwrite<64, 0>(s, q, b);
      } else if (chunk < kHeldChunks) {
        wgmma_bf16_registers<64, 0>(s, q + chunk * 16 + step * 4, b + 2 * step, 1);
      } else {
        wgmma_bf16<64, 0, 0>(s, a + (chunk - kHeldChunks) * (kChunkBytes >> 4) + 2 * step, b + 2 * step, 1);
      }
    }
  };
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    mbarrier_wait(shared.half_full(half.slot), half.lap);
    wgmma_fence();
#pragma unroll
    for (int chunk = 0; chunk < kHalfChunks; ++chunk) {
      multiply(side * kHalfChunks + chunk, shared.half(half.slot) + chunk * kChunkBytes);
    }
    wgmma_commit();
    half.advance<1>();
  }
  mbarrier_wait(shared.rope_full(rope.slot), rope.lap);
  wgmma_fence();
  multiply(2 * kHalfChunks, shared.rope(rope.slot));
  wgmma_commit();
  wgmma_wait<0>();
  pin_registers<kEntries / 2>(s);
}

/// s becomes the weights, to a base of which rows.max is the power of two; `correction` is what older ones are worth.
__device__ __forceinline__ void exponentiate(float* s, RowState& rows, float (&correction)[2], float scale) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float max = row_max<kEntries>(s, half) * scale;
    correction[half] = 1;
    if (max > rows.max[half] + kSlack) {
      correction[half] = exp2_fast(rows.max[half] - max);
      rows.max[half] = max;
    }
    const float sum = weigh_row<kEntries>(s, half, scale, rows.max[half]);
    rows.sum[half] = fmaf(rows.sum[half], correction[half], sum);
  }
}

/// The warpgroup that scores: S = Q K^T, P = exp2(S * scale - max).
__device__ __forceinline__ void score(const Parameters& p, const Shared& shared, Factors& factors, const Work& work) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp % 4;
  const int row = warp * 16 + lane / 4;
  const float scale = p.in.scale * kLog2E;
  uint32_t q[kHeldChunks * 16];
  load_query(q, p, work, row, lane);
  Cursor<kHalves> half(0);
  Cursor<kRopes> rope(0);
  Cursor<2> buffer(0);
  RowState rows{{-INFINITY, -INFINITY}, {0, 0}};
  mbarrier_wait(shared.query_full(), 0);
  const auto release = [&](uint32_t barrier) {  // what only products have read
    if (lane == 0) mbarrier_arrive(barrier);
  };
  const int tiles = work.tiles();
  for (int tile = 0; tile < tiles; ++tile) {
    float s[kEntries / 2], correction[2];
    multiply_scores(s, q, shared, half, rope);
    release(shared.rope_empty(rope.slot));
    if (tile > 0) release(shared.scored(buffer.slot ^ 1));
    rope.advance<1>();
    const int held = work.held(tile);
    if (held < kEntries) {
#pragma unroll
      for (int i = 0; i < kEntries / 2; ++i) {
        if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= held) s[i] = -INFINITY;
      }
    }
    exponentiate(s, rows, correction, scale);
    mbarrier_wait(shared.weights_empty(buffer.slot), buffer.lap ^ 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (lane % 4 == 0) factors.correction[buffer.slot][row + 8 * i] = correction[i];
      const uint32_t to = shared.weights(buffer.slot) + (row + 8 * i) * 128 + lane % 4 * 4;
#pragma unroll
      for (int n = 0; n < kEntries / 8; ++n) {
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + (n ^ lane / 4) * 16),
                     "r"(pack_bf16(s[4 * n + 2 * i], s[4 * n + 2 * i + 1]))
                     : "memory");
      }
    }
    fence_async_shared();
    mbarrier_arrive(shared.weights_full(buffer.slot));
    buffer.advance<1>();
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = quad_sum(rows.sum[i]);
    const int head = work.first_head + row + 8 * i;
    if (lane % 4 != 0) continue;
    factors.sum[row + 8 * i] = sum;
    if (p.out == nullptr && head < p.in.heads) {
      float* statistics = p.partial.statistics + 2 * partial_row(p.partial, p.in.heads, work.token, blockIdx.y, head);
      statistics[0] = rows.max[i];
      statistics[1] = sum;
    }
  }
  mbarrier_arrive(shared.sum_full());
}

/// Clears the rows from `first` on of a half: a weight of 0 does not silence a NaN.
__device__ __forceinline__ void clear_rows(uint32_t entries, int first, int side) {
  const int chunks = (kEntries - first) * 8;
#pragma unroll
  for (int block = 0; block < kHalfChunks; ++block) {
    for (int chunk = threadIdx.x % kWarpgroup; chunk < chunks; chunk += kWarpgroup) {
      store_shared(entries + block * kChunkBytes + first * 128 + chunk * 16, make_int4(0, 0, 0, 0));
    }
  }
  fence_async_shared();
  named_barrier_sync(kClearBarrier + side, kWarpgroup);
}

/// A warpgroup that adds up half of the latents' columns: O *= correction; O += P V.
__device__ __forceinline__ void add_up(const Parameters& p, const Shared& shared, const Factors& factors,
                                       const Work& work, int side) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp % 4;
  const int row = warp * 16 + lane / 4;
  Cursor<kHalves> half(side);
  Cursor<2> buffer(0);
  float o[kLatent / 4] = {};
  const int tiles = work.tiles();
  for (int tile = 0; tile < tiles; ++tile) {
    const uint32_t entries = shared.half(half.slot);
    mbarrier_wait(shared.half_full(half.slot), half.lap);
    mbarrier_wait(shared.weights_full(buffer.slot), buffer.lap);
    const float correction[2] = {factors.correction[buffer.slot][row], factors.correction[buffer.slot][row + 8]};
    if (__any_sync(kAllLanes, correction[0] != 1 || correction[1] != 1)) {
#pragma unroll
      for (int i = 0; i < kLatent / 4; ++i) o[i] *= correction[i % 4 / 2];
    }
    const int held = work.held(tile);
    if (held < kEntries) clear_rows(entries, held, side);
    // The right half waits for the next tile's scores: its products fill the time of their exponentials.
    if (side == 1 && tile + 1 < tiles) mbarrier_wait(shared.scored(buffer.slot), buffer.lap);
    const uint32_t a = make_descriptor(shared.weights(buffer.slot), 0), b = make_descriptor(entries, kChunkBytes);
    pin_registers<kLatent / 4>(o);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kEntries / 16; ++step) {
      wgmma_bf16<128, 0, 1>(o, a + 2 * step, b + 128 * step, 1);
      wgmma_bf16<128, 0, 1>(o + 64, a + 2 * step, b + 128 * step + (2 * kChunkBytes >> 4), 1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers<kLatent / 4>(o);
    if (lane == 0) mbarrier_arrive(shared.half_empty(half.slot));
    mbarrier_arrive(shared.weights_empty(buffer.slot));
    half.advance<2>();
    buffer.advance<1>();
  }
  mbarrier_wait(shared.sum_full(), 0);
  const int column = side * (kLatent / 2) + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int head = work.first_head + row + 8 * i;
    if (head >= p.in.heads) continue;
    if (p.out != nullptr) {
      const float inverse = 1.0f / factors.sum[row + 8 * i];
      bfloat16* to = p.out + (static_cast<int64_t>(work.token) * p.in.heads + head) * kLatent + column;
#pragma unroll
      for (int n = 0; n < kLatent / 16; ++n) {
        *reinterpret_cast<uint32_t*>(to + 8 * n) =
            pack_bf16(o[4 * n + 2 * i] * inverse, o[4 * n + 2 * i + 1] * inverse);
      }
    } else {
      float* to =
          p.partial.latents + partial_row(p.partial, p.in.heads, work.token, blockIdx.y, head) * kLatent + column;
#pragma unroll
      for (int n = 0; n < kLatent / 16; ++n) {
        *reinterpret_cast<float2*>(to + 8 * n) = make_float2(o[4 * n + 2 * i], o[4 * n + 2 * i + 1]);
      }
    }
  }
}

}  // namespace deeptitan::cuda::sm90::latent_attention
