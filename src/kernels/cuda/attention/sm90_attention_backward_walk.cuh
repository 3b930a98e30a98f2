#pragma once

// How a block of Hopper's backward of attention gets its work: warps, rings, and units in their order.

#include "kernels/cuda/attention/sm90_attention_backward.cuh"

namespace deeptitan::cuda::sm90::attention_backward {

inline constexpr int kConsumers = 256, kConsumerWarps = kConsumers / 32;
inline constexpr int kThreads = kConsumers + 128;
inline constexpr int kConsumersBarrier = 1;
inline constexpr int kConsumerRegisters = 240, kProducerRegisters = 24;

/// A position in a ring and the parity of its current lap.
template <int kCount>
struct Cursor {
  int index = 0;
  uint32_t lap = 0;
  __device__ void advance() {
    if (++index == kCount) {
      index = 0;
      lap ^= 1;
    }
  }
};
using StageCursor = Cursor<AttentionShared::kStages>;
using WorkCursor = Cursor<AttentionShared::kWorkSlots>;

/// Takes the next unit. Units go document by document; in one, `group` heads at a time share a tile of keys before the
/// next tile, so many that a tile's block has begun to add when the next one's wants to, and so few that what they read
/// and add to stays in the second-level cache.
__device__ __forceinline__ AttentionWork take_work(const AttentionBackwardParameters& p) {
  constexpr int kTilesInFlight = 64;
  const int unit = atomicAdd(p.next_unit, 1);
  if (unit >= *p.tile_count * p.heads) return {};
  const DocumentTiles document = p.tiles[unit / p.heads];
  const int tiles = (document.length + kKeyTile - 1) / kKeyTile;
  const int group = min(max(kTilesInFlight / tiles, 1), p.heads);
  const int index = unit - document.first_tile * p.heads;
  const int first_head = index / (group * tiles) * group;
  const int in_group = index - first_head * tiles;
  const int heads = min(group, p.heads - first_head);
  return {document.first, document.length, in_group / heads, first_head + in_group % heads, document.first_slot};
}

/// Hands every unit to `body`; a whole warp of the readers of work.
template <typename Body>
__device__ __forceinline__ void for_each_unit(const AttentionShared& shared, int lane, const Body& body) {
  WorkCursor slot;
  while (true) {
    mbarrier_wait(shared.work_full(slot.index), slot.lap);
    const int4 low = load_shared<int4>(shared.work(slot.index));
    const int4 high = load_shared<int4>(shared.work(slot.index) + 16);
    __syncwarp();
    if (lane == 0) mbarrier_arrive(shared.work_empty(slot.index));
    slot.advance();
    if (low.y == 0) return;
    body(AttentionWork{low.x, low.y, low.z, low.w, high.x});
  }
}

}  // namespace deeptitan::cuda::sm90::attention_backward
