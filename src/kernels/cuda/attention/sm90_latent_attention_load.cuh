#pragma once

// Hopper's attention over cached latents: what its blocks share, and the thread that loads.

#include <cstddef>
#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cuda/attention/latent_partials.cuh"
#include "kernels/cuda/sm90_primitives.cuh"
#include "kernels/cuda/warp.cuh"

namespace deeptitan::cuda::sm90::latent_attention {

constexpr int kLatent = 512;
constexpr int kRope = 64;
constexpr int kWidth = kLatent + kRope;
constexpr int kHeads = 64;    // of a block
constexpr int kEntries = 64;  // of a tile
constexpr int kWarpgroup = 128;
constexpr int kThreads = 4 * kWarpgroup;

// Shared memory holds 64 rows of 64 columns at a time, rows of 128 bytes. A tile of entries is a left and a right half
// of the latents' columns and the rope keys; halves and rope keys go round in rings of their own.
constexpr int kChunkBytes = 64 * 128;
constexpr int kHalfChunks = kLatent / 64 / 2;
constexpr int kHalfBytes = kHalfChunks * kChunkBytes;
constexpr int kHalves = 5;
constexpr int kRopes = 3;
constexpr int kHeldChunks = 6;  // of the query, in registers; the others in shared memory
constexpr int kSharedChunks = kWidth / 64 - kHeldChunks;
constexpr int kSharedBytes = 1024 + kHalves * kHalfBytes + (kRopes + kSharedChunks + 2) * kChunkBytes;

struct Parameters {
  CUtensorMap query;  // [tokens * H, L + Dr] in boxes of 64 x 64
  CUtensorMap cache;  // [entries, L + Dr] in boxes of box_rows x 64
  LatentRows<bfloat16> in;
  LatentPartials partial;
  bfloat16* out;  // where there is one split, else null
  int box_rows;   // divides 64 and the page
};

struct Barriers {
  uint64_t query_full;
  uint64_t half_full[kHalves], half_empty[kHalves], rope_full[kRopes], rope_empty[kRopes];
  uint64_t weights_full[2], weights_empty[2];  // every lane that writes or reads some arrives
  uint64_t scored[2];                          // the scores of the tile behind an even and an odd one are there
  uint64_t sum_full;
};

/// What the scores' warpgroup tells the others.
struct Factors {
  float correction[2][kHeads];  // what older weights are worth
  float sum[kHeads];
};

struct Shared {
  uint32_t tiles;
  uint32_t barriers;
  __device__ uint32_t half(int i) const { return tiles + i * kHalfBytes; }
  __device__ uint32_t rope(int i) const { return tiles + kHalves * kHalfBytes + i * kChunkBytes; }
  __device__ uint32_t query(int chunk) const { return rope(kRopes) + chunk * kChunkBytes; }
  __device__ uint32_t weights(int i) const { return query(kSharedChunks) + i * kChunkBytes; }
  __device__ uint32_t query_full() const { return at(offsetof(Barriers, query_full), 0); }
  __device__ uint32_t half_full(int i) const { return at(offsetof(Barriers, half_full), i); }
  __device__ uint32_t half_empty(int i) const { return at(offsetof(Barriers, half_empty), i); }
  __device__ uint32_t rope_full(int i) const { return at(offsetof(Barriers, rope_full), i); }
  __device__ uint32_t rope_empty(int i) const { return at(offsetof(Barriers, rope_empty), i); }
  __device__ uint32_t weights_full(int i) const { return at(offsetof(Barriers, weights_full), i); }
  __device__ uint32_t weights_empty(int i) const { return at(offsetof(Barriers, weights_empty), i); }
  __device__ uint32_t scored(int i) const { return at(offsetof(Barriers, scored), i); }
  __device__ uint32_t sum_full() const { return at(offsetof(Barriers, sum_full), 0); }

 private:
  __device__ uint32_t at(size_t offset, int i) const { return barriers + static_cast<uint32_t>(offset) + 8 * i; }
};

/// A place in a ring of kSlots, and the parity of its lap.
template <int kSlots>
struct Cursor {
  int slot;
  uint32_t lap = 0;
  __device__ explicit Cursor(int first) : slot(first) {}
  template <int kSteps>
  __device__ __forceinline__ void advance() {
    slot += kSteps;
    if (slot >= kSlots) {
      slot -= kSlots;
      lap ^= 1;
    }
  }
};

/// What a block works on.
struct Work {
  int token;
  int first_head;
  int first;    // entry
  int entries;  // 0: nothing
  const int32_t* pages;
  __device__ __forceinline__ int tiles() const { return (entries + kEntries - 1) / kEntries; }
  /// Entries of a tile.
  __device__ __forceinline__ int held(int tile) const { return min(kEntries, entries - tile * kEntries); }
};

/// One thread fills the rings.
__device__ __forceinline__ void produce(const Parameters& p, const Shared& shared, const Work& work) {
  mbarrier_arrive_expect(shared.query_full(), kSharedChunks * kChunkBytes);
#pragma unroll
  for (int chunk = 0; chunk < kSharedChunks; ++chunk) {
    tma_load<3>(shared.query(chunk), &p.query, shared.query_full(),
                {(kHeldChunks + chunk) * 64, work.token * static_cast<int>(p.in.heads) + work.first_head, 0});
  }
  const auto page_size = static_cast<uint32_t>(p.in.page_size);
  const auto find_row = [&](int entry) {
    const auto place = static_cast<uint32_t>(work.first + entry);
    return static_cast<int>(work.pages[place / page_size] * page_size + place % page_size);
  };
  // Columns [64 first_chunk, 64 (first_chunk + chunks)) of a tile, whose first box lies at `first_row`.
  const auto load = [&](uint32_t to, uint32_t full, uint32_t empty, uint32_t lap, int tile, int first_row,
                        int first_chunk, int chunks) {
    mbarrier_wait(empty, lap ^ 1);
    const int boxes = (work.held(tile) + p.box_rows - 1) / p.box_rows;
    mbarrier_arrive_expect(full, chunks * boxes * p.box_rows * 128);
#pragma unroll 1
    for (int box = 0; box < boxes; ++box) {
      const int row = box == 0 ? first_row : find_row(tile * kEntries + box * p.box_rows);
#pragma unroll
      for (int chunk = 0; chunk < chunks; ++chunk) {
        tma_load<3>(to + chunk * kChunkBytes + box * p.box_rows * 128, &p.cache, full,
                    {(first_chunk + chunk) * 64, row, 0});
      }
    }
  };
  Cursor<kHalves> half(0);
  Cursor<kRopes> rope(0);
  const int tiles = work.tiles();
  int next_row = find_row(0);
  for (int tile = 0; tile < tiles; ++tile) {
    const int row = next_row;
    if (tile + 1 < tiles) next_row = find_row((tile + 1) * kEntries);  // ahead of its time
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      load(shared.half(half.slot), shared.half_full(half.slot), shared.half_empty(half.slot), half.lap, tile, row,
           side * kHalfChunks, kHalfChunks);
      half.advance<1>();
    }
    load(shared.rope(rope.slot), shared.rope_full(rope.slot), shared.rope_empty(rope.slot), rope.lap, tile, row,
         2 * kHalfChunks, 1);
    rope.advance<1>();
  }
}

}  // namespace deeptitan::cuda::sm90::latent_attention
