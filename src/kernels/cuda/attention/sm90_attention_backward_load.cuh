#pragma once

// The third warpgroup of Hopper's backward of attention: it loads, and adds to the sums of d_query.

#include "kernels/cuda/attention/sm90_attention_backward_walk.cuh"

namespace deeptitan::cuda::sm90::attention_backward {

/// Keeps the stages full. One thread.
__device__ __forceinline__ void load_tiles(const AttentionBackwardParameters& p, const AttentionShared& shared) {
  StageCursor stage;
  WorkCursor slot;
  uint32_t keys_lap = 0;
  while (true) {
    const AttentionWork work = take_work(p);
    mbarrier_wait(shared.work_empty(slot.index), slot.lap ^ 1);
    store_shared(shared.work(slot.index), make_int4(work.first, work.length, work.tile, work.head));
    store_shared(shared.work(slot.index) + 16, make_int4(work.first_slot, 0, 0, 0));
    mbarrier_arrive(shared.work_full(slot.index));
    slot.advance();
    if (work.length == 0) return;
    const int last = work.query_tiles() - 1;
    for (int tile = last; tile >= work.first_query_tile(); --tile) {
      const uint32_t full = shared.full(stage.index);
      const int token = work.first + tile * kQueryTile;
      mbarrier_wait(shared.empty(stage.index), stage.lap ^ 1);
      mbarrier_arrive_expect(full, AttentionShared::kQueryBytes + AttentionShared::kDOutBytes);
      tma_load(shared.query(stage.index), &p.query, full, {0, token, work.head * (kKeyDim / 64), 0});
      tma_load(shared.d_out(stage.index), &p.d_out, full, {0, token, work.head * (kValueDim / 64), 0});
      stage.advance();
      if (tile == last) {  // only now: the blocks before may still read theirs
        const uint32_t keys_full = shared.keys_full();
        const int key = work.first + work.tile * kKeyTile;
        mbarrier_wait(shared.keys_empty(), keys_lap ^ 1);
        keys_lap ^= 1;
        mbarrier_arrive_expect(keys_full, AttentionShared::kKeyBytes + AttentionShared::kValueBytes);
        tma_load(shared.key(), &p.key, keys_full, {0, key, work.head * ((kNope + kValueDim) / 32), 0});
        tma_load(shared.key() + kKeyTile * kNope * 2, &p.key_rope, keys_full, {0, key, 0, 0});
        tma_load(shared.value(), &p.value, keys_full, {0, key, work.head * ((kNope + kValueDim) / 64) + kNope / 64, 0});
      }
    }
  }
}

/// Loads the statistics of each stage's queries; those behind the document get probabilities of zero. A warp.
__device__ __forceinline__ void load_statistics(const AttentionBackwardParameters& p, const AttentionShared& shared,
                                                int lane) {
  StageCursor stage;
  for_each_unit(shared, lane, [&](const AttentionWork& work) {
    const float2* rows = p.statistics + static_cast<int64_t>(work.head) * p.tokens + work.first;
    for (int tile = work.query_tiles() - 1; tile >= work.first_query_tile(); --tile) {
      float2 pair[kQueryTile / 32];
#pragma unroll
      for (int i = 0; i < kQueryTile / 32; ++i) {
        const int row = tile * kQueryTile + i * 32 + lane;
        pair[i] = row < work.length ? rows[row] : make_float2(INFINITY, 0.0f);
      }
      mbarrier_wait(shared.empty(stage.index), stage.lap ^ 1);
#pragma unroll
      for (int i = 0; i < kQueryTile / 32; ++i) {
        const uint32_t to = shared.statistics(stage.index) + 4 * (i * 32 + lane);
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(pair[i].x) : "memory");
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + 4 * kQueryTile), "f"(pair[i].y) : "memory");
      }
      mbarrier_arrive(shared.full(stage.index));
      stage.advance();
    }
  });
}

/// Adds each tile of d_query to its sum when it is its turn. A warp, of which one thread works.
__device__ __forceinline__ void add_query_gradients(const AttentionBackwardParameters& p, const AttentionShared& shared,
                                                    int lane) {
  uint32_t lap = 0;
  for_each_unit(shared, lane, [&](const AttentionWork& work) {
    if (lane != 0) return;
    for (int tile = work.query_tiles() - 1; tile >= work.shared_query_tile(); --tile) {
      const int64_t slot = work.slot(tile, p.heads);
      float* sum = p.sums + slot * kSumFloats;
      mbarrier_wait(shared.sum_full(), lap);
      lap ^= 1;
      if (work.tile == 0) {
        bulk_store(sum, shared.sum(), kSumFloats * 4);
      } else {
        wait_for_count(p.added + slot, work.tile);
        fence_async_global();
        bulk_add(sum, shared.sum(), kSumFloats * 4);
      }
      bulk_commit();
      bulk_wait_read<0>();
      mbarrier_arrive(shared.sum_empty());
      bulk_wait();
      fence_async_global();
      set_count(p.added + slot, work.tile + 1);
    }
  });
}

}  // namespace deeptitan::cuda::sm90::attention_backward
