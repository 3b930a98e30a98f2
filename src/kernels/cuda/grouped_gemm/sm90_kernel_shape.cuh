#pragma once

// What the grouped product's parts share: sizes, shared memory and its rings of barriers.

#include <cstdint>

#include "kernels/cuda/grouped_gemm/sm90_tile_scheduler.cuh"
#include "kernels/cuda/sm90_primitives.cuh"

namespace deeptitan::cuda::sm90 {

/// Named barriers of a block: one that both consumer warpgroups meet at, and one of each warpgroup w, + w.
inline constexpr int kAllConsumersBarrier = 1;
inline constexpr int kWarpgroupBarrier = 2;

enum class Product { kBf16Forward, kBf16GateUp, kBf16InputGradient, kBf16WeightGradient, kFp8Rowwise, kFp8Blockwise };

/// Sizes that follow from the kind of product and how shared memory is split between the pipeline and the epilogue.
/// kAddsInBlock_: what the weight gradient is added to comes to shared memory.
template <Product kProduct_, int kStages_, int kChunkBuffers_, bool kAddsInBlock_ = false>
struct KernelShape {
  static constexpr Product kProduct = kProduct_;
  static constexpr int kStages = kStages_;
  /// Buffers of 64 rows x 128 bytes that each consumer warpgroup stages its results in.
  static constexpr int kChunkBuffers = kChunkBuffers_;
  /// Pairs of tile rows in a band of the walk.
  static constexpr int kBandPairs = 8;

  static constexpr bool kFp8 = kProduct == Product::kFp8Rowwise || kProduct == Product::kFp8Blockwise;
  /// B has two rows for each column of the output: its gate's, and n rows on its up projection's.
  static constexpr bool kGated = kProduct == Product::kBf16GateUp;
  /// Two weights may meet the same rows.
  static constexpr bool kTwoWeights = kProduct == Product::kBf16Forward;
  static constexpr bool kScaledA = kProduct == Product::kFp8Blockwise;
  static constexpr bool kGroupsAlongK = kProduct == Product::kBf16WeightGradient;
  static constexpr int kTransposeA = kGroupsAlongK ? 1 : 0;
  static constexpr int kTransposeB = kGroupsAlongK || kProduct == Product::kBf16InputGradient ? 1 : 0;

  static constexpr int kColumns = kGated ? kTileN / 2 : kTileN;  // of the output, a tile
  static constexpr int kTileK = kFp8 ? 128 : 64;                 // 128 bytes
  static constexpr int kWarpgroups = 2;
  static constexpr int kConsumerWarps = 4 * kWarpgroups;
  static constexpr int kConsumerThreads = 32 * kConsumerWarps;
  static constexpr int kThreads = kConsumerThreads + 128;
  static constexpr int kTileSlots = 4;

  static constexpr int kHalfABytes = 64 * 128;   // 64 rows of the output
  static constexpr int kHalfBBytes = 128 * 128;  // 128 columns of the output
  /// The scales of a tile's rows. The TMA takes no box that begins inside 16 bytes, so it begins up to three rows
  /// early.
  static constexpr int kScaleRows = kTileM + 4;
  static constexpr int kScaleBytes = kScaledA ? kScaleRows * 4 : 0;
  static constexpr int kScaleStageBytes = (kScaleBytes + 127) / 128 * 128;
  static constexpr int kABytes = 2 * kHalfABytes;
  static constexpr int kBBytes = 2 * kHalfBBytes;
  static constexpr int kChunkBytes = 64 * 128;
  static constexpr int kStagingBytes = kChunkBuffers * kChunkBytes;  // of a warpgroup
  static constexpr bool kAddsInBlock = kAddsInBlock_;
  /// Warps of a block that read each stage: the consumers, and the one that fetches the output ahead.
  static constexpr int kStageReaders = kConsumerWarps + (kGroupsAlongK && !kAddsInBlock ? 1 : 0);
  /// Warps that read each tile's description: the same, or the consumers and those that move the output.
  static constexpr int kTileReaders = kAddsInBlock ? kConsumerWarps + kWarpgroups : kStageReaders;

  // Offsets in shared memory; everything a swizzled box touches starts at a multiple of 1024 bytes.
  static constexpr int kAOffset = 0;
  static constexpr int kBOffset = kAOffset + kStages * kABytes;
  static constexpr int kStagingOffset = kBOffset + kStages * kBBytes;
  static constexpr int kScaleOffset = kStagingOffset + kWarpgroups * kStagingBytes;
  static constexpr int kTileOffset = kScaleOffset + kStages * kScaleStageBytes;
  static constexpr int kBarrierOffset = kTileOffset + kTileSlots * 32;
  static constexpr int kOutputBarriers = kAddsInBlock ? 2 * kWarpgroups * kChunkBuffers : 0;
  static constexpr int kSharedBytes = kBarrierOffset + 8 * (2 * kStages + 2 * kTileSlots + kOutputBarriers);
  static_assert(kSharedBytes <= 232448, "more shared memory than a Hopper block can have");
};

/// Shared-memory addresses of the rings.
template <typename Shape>
struct Rings {
  uint32_t base;
  __device__ uint32_t a(int stage) const { return base + Shape::kAOffset + stage * Shape::kABytes; }
  __device__ uint32_t b(int stage) const { return base + Shape::kBOffset + stage * Shape::kBBytes; }
  __device__ uint32_t scale(int stage) const { return base + Shape::kScaleOffset + stage * Shape::kScaleStageBytes; }
  __device__ uint32_t staging(int warpgroup) const {
    return base + Shape::kStagingOffset + warpgroup * Shape::kStagingBytes;
  }
  __device__ uint32_t tile(int slot) const { return base + Shape::kTileOffset + slot * 32; }
  __device__ uint32_t full(int stage) const { return base + Shape::kBarrierOffset + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return full(Shape::kStages + stage); }
  __device__ uint32_t tile_full(int slot) const { return full(2 * Shape::kStages + slot); }
  __device__ uint32_t tile_empty(int slot) const { return tile_full(Shape::kTileSlots + slot); }
  /// Of a warpgroup's buffer: what is added to has come; it has been added to.
  __device__ uint32_t loaded(int warpgroup, int buffer) const {
    return tile_full(2 * Shape::kTileSlots + warpgroup * Shape::kChunkBuffers + buffer);
  }
  __device__ uint32_t added(int warpgroup, int buffer) const { return loaded(Shape::kWarpgroups + warpgroup, buffer); }
};

/// A position in a ring and the parity of its current lap.
template <int kCount>
struct RingCursor {
  int index = 0;
  uint32_t lap = 0;
  __device__ void advance() {
    if (++index == kCount) {
      index = 0;
      lap ^= 1;
    }
  }
};

/// Lets both blocks' producers overwrite a stage: this warp has read it.
template <typename Shape>
__device__ __forceinline__ void release_stage(const Rings<Shape>& rings, int stage, int lane) {
  if (lane < 2) mbarrier_arrive_cluster(rings.empty(stage), lane);
}

/// What the producer tells of a tile; members as in Tile. group < 0: there are no more.
struct TileWork {
  int group, m, m_valid, n, n_valid, k_size;
  int k_second;  // weight gradient: as k_size, of the second rows

  __device__ int slices(int tile_k) const { return (k_size + tile_k - 1) / tile_k + (k_second + tile_k - 1) / tile_k; }
};

/// Takes the next tile's description from its slot; a whole warp.
template <typename Shape>
__device__ __forceinline__ TileWork next_tile(const Rings<Shape>& rings, RingCursor<Shape::kTileSlots>& slot,
                                              int lane) {
  mbarrier_wait(rings.tile_full(slot.index), slot.lap);
  int4 first{}, second{};
  if (lane == 0) {
    first = load_shared<int4>(rings.tile(slot.index));
    second = load_shared<int4>(rings.tile(slot.index) + 16);
    mbarrier_arrive(rings.tile_empty(slot.index));
  }
  slot.advance();
  const auto from_first_lane = [](int value) { return __shfl_sync(~0u, value, 0); };
  return {from_first_lane(first.x),  from_first_lane(first.y),  from_first_lane(first.z), from_first_lane(first.w),
          from_first_lane(second.x), from_first_lane(second.y), from_first_lane(second.z)};
}

}  // namespace deeptitan::cuda::sm90
