#pragma once

#include <cstdint>

#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_kernel_shape.cuh"
#include "kernels/cuda/grouped_gemm/sm90_primitives.cuh"
#include "kernels/cuda/grouped_gemm/sm90_tile_scheduler.cuh"

namespace deeptitan::cuda::sm90 {

/// Loads one slice along K of a tile's operands; one thread.
template <typename Shape>
__device__ __forceinline__ void load_slice(const GroupedGemmParameters& p, const Rings<Shape>& rings, int stage,
                                           const Tile& tile, int k, int rank) {
  const uint32_t barrier = rings.full(stage);
  const int a_halves = tile.a_rows > 64 ? 2 : 1;
  const int b_halves = (tile.n_valid + 127) / 128;
  mbarrier_arrive_expect(barrier, a_halves * Shape::kHalfABytes + b_halves * Shape::kHalfBBytes + Shape::kScaleBytes);
  constexpr uint16_t kBoth = 3;

  for (int half = 0; half < a_halves; ++half) {
    const uint32_t destination = rings.a(stage) + half * Shape::kHalfABytes;
    const int m = tile.m + 64 * half;
    const int x = Shape::kTransposeA ? m : k;
    const int y = Shape::kTransposeA ? tile.k_begin + k : m;
    if (tile.shares_b) {
      tma_load(destination, &p.a, barrier, x, y, 0);
    } else if (half == rank) {
      tma_load_multicast(destination, &p.a, barrier, x, y, 0, kBoth);
    }
  }
  for (int half = 0; half < b_halves; ++half) {
    if (tile.shares_b && half != rank) continue;
    const uint32_t destination = rings.b(stage) + half * Shape::kHalfBBytes;
    const int n = tile.n + 128 * half;
    const int z = Shape::kGroupsAlongK ? 0 : tile.group;
    constexpr int kBoxes = Shape::kTransposeB ? 2 : 1;  // of 64 columns, or one of 128 rows
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) {
      const int x = Shape::kTransposeB ? n + 64 * box : k;
      const int y = Shape::kTransposeB ? tile.k_begin + k : n;
      const uint32_t target = destination + box * (Shape::kHalfBBytes / kBoxes);
      if (tile.shares_b) {
        tma_load_multicast(target, &p.b, barrier, x, y, z, kBoth);
      } else {
        tma_load(target, &p.b, barrier, x, y, z);
      }
    }
  }
  if constexpr (Shape::kScaledA) tma_load(rings.scale(stage), &p.a_scale, barrier, tile.m / 4 * 4, k / 128, 0);
}

/// The producer warp: finds tiles, tells the consumers, keeps the stages full.
template <typename Shape>
__device__ __forceinline__ void produce(const GroupedGemmParameters& p, const Rings<Shape>& rings, int lane) {
  const int rank = static_cast<int>(cluster_rank());
  const int clusters = gridDim.x / 2;
  TileWalker<Shape::kGroupsAlongK, Shape::kBandPairs> walker({p.offsets, p.sizes, p.groups, p.rows}, p.m, p.n, p.k,
                                                             lane);
  RingCursor<Shape::kStages> stage;
  RingCursor<Shape::kTileSlots> slot;
  Tile tile;
  for (int unit = blockIdx.x / 2;; unit += clusters) {
    const bool more = walker.find(unit, rank, tile);
    if (lane == 0) {
      mbarrier_wait(rings.tile_empty(slot.index), slot.lap ^ 1);
      store_shared(rings.tile(slot.index), make_int4(more ? tile.group : -1, tile.m, tile.m_valid, tile.n));
      store_shared(rings.tile(slot.index) + 16, make_int4(tile.n_valid, tile.k_size, 0, 0));
      mbarrier_arrive(rings.tile_full(slot.index));
    }
    slot.advance();
    if (!more) break;
    if (lane == 0) {
      for (int k = 0; k < tile.k_size; k += Shape::kTileK) {
        mbarrier_wait(rings.empty(stage.index), stage.lap ^ 1);
        load_slice<Shape>(p, rings, stage.index, tile, k, rank);
        stage.advance();
      }
    }
    __syncwarp();
  }
}

}  // namespace deeptitan::cuda::sm90
