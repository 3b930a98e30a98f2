#pragma once

#include <cstdint>

#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_kernel_shape.cuh"
#include "kernels/cuda/grouped_gemm/sm90_tile_scheduler.cuh"
#include "kernels/cuda/sm90_primitives.cuh"

namespace deeptitan::cuda::sm90 {

/// Loads one box, to this block or to both.
template <int kRank>
__device__ __forceinline__ void load_box(uint32_t destination, const CUtensorMap* map, uint32_t barrier,
                                         const int (&at)[kRank], bool to_both) {
  constexpr uint16_t kBoth = 3;
  if (to_both) {
    tma_load_multicast(destination, map, barrier, at, kBoth);
  } else {
    tma_load(destination, map, barrier, at);
  }
}

/// Loads `halves` x 64 rows (of A) or columns (of B) of the output from `first`, and 128 bytes along K from `k`. The
/// map's boxes hold as many; where they run along rows and blocks of 64 columns may be cut (whole_blocks false), 64.
template <bool kTransposed>
__device__ __forceinline__ void load_operand(uint32_t destination, const CUtensorMap* map, uint32_t barrier, int first,
                                             int k, int z, int halves, bool whole_blocks, bool to_both) {
  if constexpr (!kTransposed) {
    load_box(destination, map, barrier, {k, first, z}, to_both);
  } else if (whole_blocks && halves == 2) {
    load_box(destination, map, barrier, {0, k, first / 64, z}, to_both);
  } else {
    for (int half = 0; half < halves; ++half) {
      load_box(destination + half * 64 * 128, map, barrier, {first + 64 * half, k, z}, to_both);
    }
  }
}

/// The operands of a slice, its first row where groups cut K, and which of the matrices of B it is.
struct SliceSource {
  const CUtensorMap *a, *a_half, *b;
  int k_begin;
  int matrix;
};

/// Loads one slice along K of a tile's operands, in few boxes: the TMA keeps only so many in flight. One thread.
template <typename Shape>
__device__ __forceinline__ void load_slice(const GroupedGemmParameters& p, const Rings<Shape>& rings, int stage,
                                           const Tile& tile, const SliceSource& source, int k, int rank) {
  const uint32_t barrier = rings.full(stage);
  const int a_halves = (tile.a_rows + 63) / 64;
  const int b_halves = Shape::kGated ? (tile.n_valid > 0 ? 2 : 0) : (tile.n_valid + 127) / 128;
  mbarrier_arrive_expect(barrier, a_halves * Shape::kHalfABytes + b_halves * Shape::kHalfBBytes + Shape::kScaleBytes);

  if (tile.shares_b) {
    load_operand<Shape::kTransposeA>(rings.a(stage), a_halves == 2 ? source.a : source.a_half, barrier, tile.m,
                                     source.k_begin + k, 0, a_halves, p.whole_blocks, false);
  } else if (rank < a_halves) {
    load_operand<Shape::kTransposeA>(rings.a(stage) + rank * Shape::kHalfABytes, source.a_half, barrier,
                                     tile.m + 64 * rank, source.k_begin + k, 0, 1, p.whole_blocks, true);
  }
  for (int half = 0; half < b_halves; ++half) {
    if (tile.shares_b && half != rank) continue;
    load_operand<Shape::kTransposeB>(rings.b(stage) + half * Shape::kHalfBBytes, source.b, barrier,
                                     tile.n + half * (Shape::kGated ? p.n : 128), source.k_begin + k, source.matrix, 2,
                                     p.whole_blocks, tile.shares_b);
  }
  if constexpr (Shape::kScaledA) tma_load(rings.scale(stage), &p.a_scale, barrier, {tile.m / 4 * 4, k / 128, 0});
}

/// Lets cluster c of `clusters` start c / clusters of a mean tile's time late, where each has many of the `units`: the
/// blocks would otherwise all add to the weight gradient at one time, and the memory would rest while they multiply.
__device__ __forceinline__ void stagger(int units, int cluster, int clusters, int mean_rows) {
  constexpr int kManyUnits = 16;
  constexpr int64_t kSliceCycles = 1024, kStoreCycles = 8192;
  if (units < kManyUnits * clusters) return;
  const int64_t delay = (mean_rows / 64 * kSliceCycles + kStoreCycles) * cluster / clusters;
  const int64_t start = clock64();
  while (clock64() - start < delay) {
  }
}

/// The producer warp: finds tiles, tells the consumers, keeps the stages full.
template <typename Shape>
__device__ __forceinline__ void produce(const GroupedGemmParameters& p, const Rings<Shape>& rings, int lane) {
  const int rank = static_cast<int>(cluster_rank());
  const int clusters = gridDim.x / 2;
  const bool two = Shape::kGroupsAlongK && p.second.sizes != nullptr;
  TileWalker<Shape::kGroupsAlongK, Shape::kBandPairs, Shape::kColumns> walker(
      {p.offsets, p.sizes, p.groups, p.rows}, p.m, p.n, p.k, Shape::kGroupsAlongK && (!p.accumulate || two), lane);
  RingCursor<Shape::kStages> stage;
  RingCursor<Shape::kTileSlots> slot;
  Tile tile;
  if constexpr (Shape::kGroupsAlongK) {
    stagger(walker.window_units(), static_cast<int>(blockIdx.x / 2), clusters,
            (p.rows + (two ? p.second.rows : 0)) / p.groups);
  }
  for (int unit = blockIdx.x / 2;; unit += clusters) {
    const bool more = walker.find(unit, rank, tile);
    int second_begin = 0, second_size = 0;
    if (two && more) {
      second_begin = p.second.offsets[tile.group];
      second_size = max(0, min(p.second.sizes[tile.group], p.second.rows - second_begin));
    }
    if (lane == 0) {
      mbarrier_wait(rings.tile_empty(slot.index), slot.lap ^ 1);
      store_shared(rings.tile(slot.index), make_int4(more ? tile.group : -1, tile.m, tile.m_valid, tile.n));
      store_shared(rings.tile(slot.index) + 16, make_int4(tile.n_valid, tile.k_size, second_size, 0));
      mbarrier_arrive(rings.tile_full(slot.index));
    }
    slot.advance();
    if (!more) break;
    if (lane == 0) {
      const auto load_slices = [&](const SliceSource& source, int size) {
        for (int k = 0; k < size; k += Shape::kTileK) {
          mbarrier_wait(rings.empty(stage.index), stage.lap ^ 1);
          load_slice<Shape>(p, rings, stage.index, tile, source, k, rank);
          stage.advance();
        }
      };
      const bool other = Shape::kTwoWeights && p.group_rows > 0 && tile.group == 1;
      const int matrix = Shape::kGroupsAlongK || other ? 0 : tile.group;
      load_slices({&p.a, &p.a_half, other ? &p.second.b : &p.b, tile.k_begin, matrix}, tile.k_size);
      if constexpr (Shape::kGroupsAlongK) {
        load_slices({&p.second.a, &p.second.a_half, &p.second.b, second_begin, 0}, second_size);
      }
    }
    __syncwarp();
  }
}

/// Fetches the tile of the weight gradient that the products will be added to into the second-level cache, spread over
/// the second half of its slices; a warp that follows the stages as the consumers do.
template <typename Shape>
__device__ __forceinline__ void prefetch_output(const GroupedGemmParameters& p, const Rings<Shape>& rings, int lane) {
  RingCursor<Shape::kStages> stage;
  RingCursor<Shape::kTileSlots> slot;
  while (true) {
    const TileWork tile = next_tile(rings, slot, lane);
    if (tile.group < 0) break;
    const int column = lane % 8 * 32;  // a line of 128 bytes a lane, four rows at a time
    const float* lines = static_cast<const float*>(p.output_rows) +
                         (static_cast<int64_t>(tile.group) * p.m + tile.m) * p.n + tile.n + column;
    const int rows = p.accumulate && column < tile.n_valid ? tile.m_valid : 0;
    const int slices = tile.slices(Shape::kTileK);
    int row = lane / 8;
    for (int slice = 0; slice < slices; ++slice) {
      mbarrier_wait(rings.full(stage.index), stage.lap);
      release_stage(rings, stage.index, lane);
      stage.advance();
      const int end = min(rows, (2 * slice + 2 - slices) * kTileM / slices);
      for (; row < end; row += 4) prefetch_line(lines + static_cast<int64_t>(row) * p.n);
      __syncwarp();
    }
  }
}

}  // namespace deeptitan::cuda::sm90
