#pragma once

// Hopper's forward of attention: what its blocks share, and the warp that loads.

#include <cstddef>
#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cuda/attention/sm90_attention_tiles.h"
#include "kernels/cuda/sm90_primitives.cuh"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda::sm90::attention_forward {

constexpr int kRows = kAttentionTileRows;            // of queries, and of keys, in a tile
constexpr int kShortRows = kShortAttentionTileRows;  // of a short tile
constexpr int kStages = 2;
constexpr int kProducerThreads = 128;
constexpr int kConsumerThreads = 256;
constexpr int kThreads = kProducerThreads + kConsumerThreads;
constexpr int kConsumerWarps = kConsumerThreads / kWarp;
// A warpgroup waits for registers that another has given back: what all ask for must be what the launch has.
constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
constexpr int kProducerRegisters = 24;
constexpr int kConsumerRegisters = 240;
static_assert(kProducerRegisters * kProducerThreads + kConsumerRegisters * kConsumerThreads <=
              kLaunchRegisters * kThreads);

/// Sizes of a head. Shared memory holds blocks of 64 columns, rows of 128 bytes.
template <int kNope, int kRope, int kValue>
struct Head {
  static constexpr int kNopeDim = kNope;
  static constexpr int kRopeDim = kRope;
  static constexpr int kKeyDim = kNope + kRope;
  static constexpr int kValueDim = kValue;
  static constexpr int kNopeBlocks = kNope / 64;
  static constexpr int kKeyBlocks = kNopeBlocks + 1;
  static constexpr int kValueBlocks = kValue / 64;
  static constexpr int kKeySteps = kKeyDim / 16;
  static constexpr int kBlockBytes = kRows * 128;
  static constexpr int kKeyBytes = kKeyBlocks * kBlockBytes;
  static constexpr int kValueBytes = kValueBlocks * kBlockBytes;
  /// A query's columns are whole blocks, which then are one box.
  static constexpr int kQueryBoxBlocks = kRope % 64 == 0 ? kKeyBlocks : 1;
  static constexpr int kSharedBytes = 1024 + kKeyBytes + kStages * (kKeyBytes + kValueBytes);
};

struct Maps {
  CUtensorMap query, key, value, key_rope;
};

struct Parameters {
  Maps maps;        // boxes of kRows rows
  Maps short_maps;  // of kShortRows
  AttentionTiles list;
  bfloat16* out;
  float* log_sum_exp;
  int heads;
  int key_head, value_head;  // columns from head to head
  float scale;
};

/// What the producer tells the consumers of a tile; no rows: there are no more.
struct TileWork {
  AttentionTile tile;
  int head;
};

struct Barriers {
  uint64_t query_full, query_empty;
  uint64_t key_full[kStages], key_empty[kStages], value_full[kStages], value_empty[kStages];
  TileWork work;
};

/// Where a ring stands.
struct Cursor {
  int index = 0;
  uint32_t lap = 0;
  __device__ void advance() {
    index ^= 1;
    lap ^= index == 0;
  }
};
static_assert(kStages == 2);

/// The block's shared memory.
template <typename H>
struct Shared {
  uint32_t base;      // aligned to 1024 bytes
  uint32_t barriers;  // address of Barriers
  __device__ uint32_t query() const { return base; }
  __device__ uint32_t key(int stage) const { return base + (1 + stage) * H::kKeyBytes; }
  __device__ uint32_t value(int stage) const { return base + (1 + kStages) * H::kKeyBytes + stage * H::kValueBytes; }
  __device__ uint32_t query_full() const { return barriers + offsetof(Barriers, query_full); }
  __device__ uint32_t query_empty() const { return barriers + offsetof(Barriers, query_empty); }
  __device__ uint32_t key_full(int stage) const { return barriers + offsetof(Barriers, key_full) + 8 * stage; }
  __device__ uint32_t key_empty(int stage) const { return barriers + offsetof(Barriers, key_empty) + 8 * stage; }
  __device__ uint32_t value_full(int stage) const { return barriers + offsetof(Barriers, value_full) + 8 * stage; }
  __device__ uint32_t value_empty(int stage) const { return barriers + offsetof(Barriers, value_empty) + 8 * stage; }
};

/// kBlocks neighbouring blocks of 64 columns from `column` on.
template <int kBlocks>
__device__ __forceinline__ void load_blocks(uint32_t to, const CUtensorMap* map, uint32_t barrier, int column,
                                            int row) {
  if constexpr (kBlocks > 1) {
    tma_load<4>(to, map, barrier, {0, row, column / 64, 0});
  } else {
    tma_load<3>(to, map, barrier, {column, row, 0});
  }
}

/// kLoaded rows of a head; blocks lie kLoaded rows apart.
template <typename H, int kLoaded>
__device__ __forceinline__ void load_query(uint32_t to, const Maps& maps, uint32_t barrier, int head, int row) {
  constexpr int kBlocks = H::kQueryBoxBlocks;
#pragma unroll
  for (int block = 0; block < H::kKeyBlocks; block += kBlocks) {
    load_blocks<kBlocks>(to + block * kLoaded * 128, &maps.query, barrier, head * H::kKeyDim + block * 64, row);
  }
}
template <typename H, int kLoaded>
__device__ __forceinline__ void load_key(uint32_t to, const Maps& maps, uint32_t barrier, int column, int row) {
  load_blocks<H::kNopeBlocks>(to, &maps.key, barrier, column, row);
  load_blocks<1>(to + H::kNopeBlocks * kLoaded * 128, &maps.key_rope, barrier, 0, row);
}

/// What unit `unit` is; a whole warp, which holds a section a lane.
struct Unit {
  AttentionTile tile;
  int head;
  bool more;  // whether there is one
};
__device__ __forceinline__ Unit find_unit(const Parameters& p, const AttentionSection& section, int unit) {
  const int pairs = (p.heads + 1) / 2;
  const uint32_t begun = __ballot_sync(kAllLanes, section.first_unit <= unit);
  const int source = 31 - __clz(begun);
  const int long_tiles = __shfl_sync(kAllLanes, section.long_tiles, source);
  const int units = 2 * long_tiles + __shfl_sync(kAllLanes, section.short_tiles, source);
  const int local = unit - __shfl_sync(kAllLanes, section.first_unit, source);
  const int first_tile = __shfl_sync(kAllLanes, section.first_tile, source);
  if (units == 0 || local >= units * pairs) return {{}, 0, false};
  const int pair = local / units, rest = local - pair * units;
  const bool is_long = rest < 2 * long_tiles;
  const int tile = first_tile + (is_long ? rest / 2 : rest - long_tiles);
  return {p.list.tiles[tile], 2 * pair + (is_long ? rest % 2 : 0), true};
}

/// One warp fills the rings.
template <typename H>
__device__ __forceinline__ void produce(const Parameters& p, const Shared<H>& shared, Barriers* barriers) {
  const int lane = threadIdx.x % kWarp;
  const AttentionSection section = p.list.sections[lane];
  Cursor key, value;
  uint32_t query_lap = 0;
  int unit = blockIdx.x;
  while (true) {
    const Unit found = find_unit(p, section, unit);
    int next = 0;
    if (lane == 0 && found.more) next = static_cast<int>(gridDim.x) + atomicAdd(p.list.next_unit, 1);
    const AttentionTile& tile = found.tile;
    if (found.head < p.heads && lane == 0) {
      mbarrier_wait(shared.query_empty(), query_lap ^ 1);
      barriers->work = {tile, found.head};
      if (!found.more) {
        mbarrier_arrive(shared.query_full());
        return;
      }
      mbarrier_arrive_expect(shared.query_full(), H::kKeyBytes);
      if (tile.is_short != 0) {
        const Maps& maps = p.short_maps;
        const auto each_head = [&](const auto& load) {
          load(0, found.head);
          load(1, found.head + 1);
        };
        each_head([&](int half, int head) {
          load_query<H, kShortRows>(shared.query() + half * H::kKeyBytes / 2, maps, shared.query_full(), head,
                                    tile.first_row);
        });
        mbarrier_wait(shared.key_empty(key.index), key.lap ^ 1);
        mbarrier_arrive_expect(shared.key_full(key.index), H::kKeyBytes);
        each_head([&](int half, int head) {
          load_key<H, kShortRows>(shared.key(key.index) + half * H::kKeyBytes / 2, maps, shared.key_full(key.index),
                                  head * p.key_head, tile.first_key);
        });
        mbarrier_wait(shared.value_empty(value.index), value.lap ^ 1);
        mbarrier_arrive_expect(shared.value_full(value.index), H::kValueBytes);
        each_head([&](int half, int head) {
          load_blocks<H::kValueBlocks>(shared.value(value.index) + half * H::kValueBytes / 2, &maps.value,
                                       shared.value_full(value.index), head * p.value_head, tile.first_key);
        });
        key.advance();
        value.advance();
      } else {
        const Maps& maps = p.maps;
        load_query<H, kRows>(shared.query(), maps, shared.query_full(), found.head, tile.first_row);
        const auto next_key = [&](int row) {
          mbarrier_wait(shared.key_empty(key.index), key.lap ^ 1);
          mbarrier_arrive_expect(shared.key_full(key.index), H::kKeyBytes);
          load_key<H, kRows>(shared.key(key.index), maps, shared.key_full(key.index), found.head * p.key_head, row);
          key.advance();
        };
        next_key(tile.first_key);
        for (int older = tile.older; older >= 0; --older) {
          const int row = tile.first_key - (tile.older - older) * kRows;
          if (older > 0) next_key(row - kRows);
          mbarrier_wait(shared.value_empty(value.index), value.lap ^ 1);
          mbarrier_arrive_expect(shared.value_full(value.index), H::kValueBytes);
          load_blocks<H::kValueBlocks>(shared.value(value.index), &maps.value, shared.value_full(value.index),
                                       found.head * p.value_head, row);
          value.advance();
        }
      }
      query_lap ^= 1;
    }
    if (!found.more) return;
    __syncwarp();
    unit = __shfl_sync(kAllLanes, next, 0);
  }
}

}  // namespace deeptitan::cuda::sm90::attention_forward
