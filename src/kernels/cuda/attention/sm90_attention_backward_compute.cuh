#pragma once

// The two warpgroups of Hopper's backward of attention that multiply.

#include "kernels/cuda/attention/row_softmax.cuh"
#include "kernels/cuda/attention/sm90_attention_backward_walk.cuh"

namespace deeptitan::cuda::sm90::attention_backward {

__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

__device__ __forceinline__ float low_half(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float high_half(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

/// What a thread of the consumers is: it holds, of each accumulator, rows `row` and row + 8 of its warpgroup's 64, and
/// of every eight columns `column` and the next one.
struct Consumer {
  int warpgroup, warp, lane;
  __device__ int row() const { return warp * 16 + lane / 4; }
  __device__ int column() const { return lane % 4 * 2; }
};

/// Writes d_query of a tile on the diagonal: the tiles of keys before this one have added theirs.
__device__ __forceinline__ void store_query_gradient(const AttentionBackwardParameters& p, const AttentionWork& work,
                                                     int tile, const Consumer& me, float (&dq)[48]) {
  if (work.tile > 0) {
    const int64_t slot = work.slot(tile, p.heads);
    if (me.lane == 0) wait_for_count(p.added + slot, work.tile);
    __syncwarp();
    const float4* sum =
        reinterpret_cast<const float4*>(p.sums + slot * kSumFloats) + me.warpgroup * 12 * 128 + me.warp * 32 + me.lane;
    constexpr int kAtOnce = 4;  // more would not find registers
#pragma unroll
    for (int first = 0; first < 12; first += kAtOnce) {
      float4 before[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) before[i] = __ldcg(sum + (first + i) * 128);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        float* to = dq + 4 * (first + i);
        to[0] += before[i].x;
        to[1] += before[i].y;
        to[2] += before[i].z;
        to[3] += before[i].w;
      }
      pin_registers<48>(dq);
    }
  }
  const int count = work.length - tile * kQueryTile;
  bfloat16* first = p.d_query +
                    (static_cast<int64_t>(work.first + tile * kQueryTile + me.row()) * p.heads + work.head) * kKeyDim +
                    me.warpgroup * 96 + me.column();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (me.row() + 8 * half >= count) continue;
    bfloat16* row = first + static_cast<int64_t>(8 * half) * p.heads * kKeyDim;
#pragma unroll
    for (int n = 0; n < 12; ++n) {
      *reinterpret_cast<uint32_t*>(row + 8 * n) =
          pack_pair(dq[4 * n + 2 * half] * p.scale, dq[4 * n + 2 * half + 1] * p.scale);
    }
  }
}

__device__ __forceinline__ void store_key_gradients(const AttentionBackwardParameters& p, const AttentionWork& work,
                                                    const Consumer& me, const float (&dk)[96], const float (&dv)[64]) {
  const int first = work.tile * kKeyTile + me.warpgroup * 64 + me.row();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (first + 8 * half >= work.length) continue;
    const int64_t row = static_cast<int64_t>(work.first + first + 8 * half) * p.heads + work.head;
    bfloat16* to = p.d_key_value + row * (kNope + kValueDim) + me.column();
#pragma unroll
    for (int n = 0; n < kNope / 8; ++n) {
      *reinterpret_cast<uint32_t*>(to + 8 * n) =
          pack_pair(dk[4 * n + 2 * half] * p.scale, dk[4 * n + 2 * half + 1] * p.scale);
    }
#pragma unroll
    for (int n = 0; n < kValueDim / 8; ++n) {
      *reinterpret_cast<uint32_t*>(to + kNope + 8 * n) = pack_pair(dv[4 * n + 2 * half], dv[4 * n + 2 * half + 1]);
    }
    float* rope = p.d_key_rope + row * kRope + me.column();
#pragma unroll
    for (int n = 0; n < kRope / 8; ++n) {
      const float* part = dk + kNope / 2 + 4 * n + 2 * half;
      *reinterpret_cast<float2*>(rope + 8 * n) = make_float2(part[0] * p.scale, part[1] * p.scale);
    }
  }
}

/// Descriptors of this warpgroup's operands that stay where they are.
struct Operands {
  uint32_t keys, values;  // its 64 keys
  uint32_t key_columns;   // all keys, its 96 columns
  uint32_t d_scores;
};

__device__ __forceinline__ void consume(const AttentionBackwardParameters& p, const AttentionShared& shared,
                                        const Consumer& me) {
  const Operands of = {make_descriptor(shared.key() + me.warpgroup * 64 * 64, 0),
                       make_descriptor(shared.value() + me.warpgroup * 64 * 128, 0),
                       make_descriptor(shared.key() + me.warpgroup * 3 * kKeyTile * 64, kKeyTile * 64),
                       make_descriptor(shared.d_score(), 0)};
  const float scale = p.scale * kLog2E;
  // Where this lane's row of four matrices of dS^T lies, for the even and the odd pairs of matrices.
  const int score_row = me.warpgroup * 64 + me.warp * 16 + me.lane % 16;
  const uint32_t score_store = shared.d_score() + score_row * 128;
  StageCursor stage;
  uint32_t keys_lap = 0, step_lap = 0, sum_lap = 0;
  for_each_unit(shared, me.lane, [&](const AttentionWork& work) {
    float dk[96], dv[64];
#pragma unroll
    for (int i = 0; i < 96; ++i) dk[i] = 0;
#pragma unroll
    for (int i = 0; i < 64; ++i) dv[i] = 0;
    mbarrier_wait(shared.keys_full(), keys_lap);
    keys_lap ^= 1;
    for (int tile = work.query_tiles() - 1; tile >= work.first_query_tile(); --tile) {
      mbarrier_wait(shared.full(stage.index), stage.lap);
      const bool diagonal = tile < work.shared_query_tile();
      const uint32_t query = shared.query(stage.index), d_out = shared.d_out(stage.index);
      const uint32_t query_rows = make_descriptor(query, 0), d_out_rows = make_descriptor(d_out, 0);
      const uint32_t statistics = shared.statistics(stage.index) + 4 * me.column();
      float s[32];
      pin_registers<32>(s);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kKeyDim / 16; ++k) {
        multiply_scores(s, of.keys + k / 2 * (kKeyTile * 64 >> 4) + k % 2 * 2,
                        query_rows + k / 4 * (kQueryTile * 128 >> 4) + k % 4 * 2, k > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers<32>(s);
      uint32_t probability[16];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 log_sum = load_shared_pair(statistics + 32 * n);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          s[4 * n + i] = exp2_fast(fmaf(s[4 * n + i], scale, i % 2 == 0 ? -log_sum.x : -log_sum.y));
        }
      }
      if (diagonal) {
        const int ahead = (tile - work.first_query_tile()) * kQueryTile - me.warpgroup * 64 + me.column() - me.row();
#pragma unroll
        for (int n = 0; n < 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (ahead + 8 * n + i % 2 - i / 2 * 8 < 0) s[4 * n + i] = 0;
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 16; ++i) probability[i] = pack_pair(s[2 * i], s[2 * i + 1]);

      float dp[32];
      pin_registers<32>(dp);
      pin_registers<64>(dv);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kValueDim / 16; ++k) {
        wgmma_bf16<64, 0, 0>(dp, of.values + k / 4 * (kKeyTile * 128 >> 4) + k % 4 * 2,
                             d_out_rows + k / 4 * (kQueryTile * 128 >> 4) + k % 4 * 2, k > 0);
      }
      wgmma_commit();
      const uint32_t d_out_columns = make_descriptor(d_out, kQueryTile * 128);
#pragma unroll
      for (int k = 0; k < kQueryTile / 16; ++k) {
        wgmma_bf16_registers<kValueDim, 1>(dv, probability + 4 * k, d_out_columns + k * (16 * 128 >> 4), 1);
      }
      wgmma_commit();
      wgmma_wait<1>();
      pin_registers<32>(dp);
      uint32_t d_score[16];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 delta = load_shared_pair(statistics + 4 * kQueryTile + 32 * n);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t x = probability[2 * n + half];
          const float* d = dp + 4 * n + 2 * half;
          d_score[2 * n + half] = pack_pair(low_half(x) * (d[0] - delta.x), high_half(x) * (d[1] - delta.y));
        }
      }

      mbarrier_wait(shared.d_score_empty(), step_lap ^ 1);
      step_lap ^= 1;
#pragma unroll
      for (int k = 0; k < kQueryTile / 16; ++k) {
        const int chunk = (2 * k + me.lane / 16) ^ (me.lane % 8);
        store_matrices(score_store + chunk * 16, d_score + 4 * k);
      }
      fence_async_shared();
      pin_registers<96>(dk);
      wgmma_fence();
      const uint32_t query_columns = make_descriptor(query, kQueryTile * 128);
#pragma unroll
      for (int k = 0; k < kQueryTile / 16; ++k) {
        wgmma_bf16_registers<kKeyDim, 1>(dk, d_score + 4 * k, query_columns + k * (16 * 128 >> 4), 1);
      }
      wgmma_commit();
      named_barrier_sync(kConsumersBarrier, kConsumers);
      wgmma_wait<0>();
      pin_registers<64>(dv);
      pin_registers<96>(dk);
      mbarrier_arrive(shared.empty(stage.index));
      stage.advance();

      float dq[48];
      pin_registers<48>(dq);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kKeyTile / 16; ++k) {
        multiply_d_scores(dq, of.d_scores + k * (16 * 128 >> 4), of.key_columns + k * (16 * 64 >> 4), k > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers<48>(dq);
      if (me.lane == 0) mbarrier_arrive(shared.d_score_empty());
      if (diagonal) {
        store_query_gradient(p, work, tile, me, dq);
      } else {
        mbarrier_wait(shared.sum_empty(), sum_lap ^ 1);
        sum_lap ^= 1;
        const uint32_t to = shared.sum() + (me.warpgroup * 12 * 128 + me.warp * 32 + me.lane) * 16;
#pragma unroll
        for (int n = 0; n < 12; ++n) {
          store_shared(to + n * 128 * 16, make_int4(__float_as_int(dq[4 * n]), __float_as_int(dq[4 * n + 1]),
                                                    __float_as_int(dq[4 * n + 2]), __float_as_int(dq[4 * n + 3])));
        }
        fence_async_shared();
        __syncwarp();
        if (me.lane == 0) mbarrier_arrive(shared.sum_full());
      }
    }
    if (me.lane == 0) mbarrier_arrive(shared.keys_empty());
    store_key_gradients(p, work, me, dk, dv);
  });
}

}  // namespace deeptitan::cuda::sm90::attention_backward
