#pragma once

// The Hopper grouped product: persistent clusters of two blocks, one producer warp and two consumer warpgroups a block.
//
// A block computes tiles of 128 x 256; each warpgroup holds 64 x 256 fp32 accumulators in registers. The producer walks
// the tiles (sm90_tile_scheduler.cuh) and keeps kStages slices of 128 bytes along K in flight in shared memory; the two
// blocks of a cluster each load half of the operand they share and multicast it. Three rings of mbarriers:
//   full[s]      one arrival with the slice's byte count: the TMA has written stage s.
//   empty[s]     an arrival of every reading warp of both blocks: nobody reads stage s any more, in either block
//                (a multicast writes into both).
//   tile_full[t], tile_empty[t]: the tile's description, from the producer to the reading warps of its block.
// The reading warps are the consumers and, for the weight gradient, one that fetches the output's tile ahead.
// The producer runs ahead into the next tile while the consumers store the last one.
//
// Ragged edges need no padding: A is loaded across the group's end (the rows there are another group's, and their
// products are not stored), K and N tails read as zero through the tensor maps' bounds. For the weight gradient the
// groups cut K itself: consumers clear the rows past the group's end in shared memory.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/sm90_accumulate.cuh"
#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_kernel_shape.cuh"
#include "kernels/cuda/grouped_gemm/sm90_producer.cuh"
#include "kernels/cuda/grouped_gemm/sm90_store.cuh"

namespace deeptitan::cuda::sm90 {

/// A consumer warpgroup: one tile after another until the producer says there are no more.
template <typename Shape>
__device__ __forceinline__ void consume(const GroupedGemmParameters& p, const Rings<Shape>& rings, int thread) {
  const int warp = __shfl_sync(~0u, thread / 32, 0);
  const int lane = thread % 32;
  const int warpgroup = warp / 4;
  RingCursor<Shape::kStages> stage;
  RingCursor<Shape::kTileSlots> slot;
  RingCursor<Shape::kChunkBuffers> buffer;
  while (true) {
    const TileWork tile = next_tile(rings, slot, lane);
    const auto [group, m, m_valid, n, n_valid, k_size, k_second] = tile;
    if (group < 0) break;
    if (Shape::kGroupsAlongK && p.accumulate && k_size + k_second == 0) continue;

    if (warpgroup * 64 >= m_valid) {  // nothing to compute here, but the stages must go round
      for (int slice = 0; slice < tile.slices(Shape::kTileK); ++slice) {
        mbarrier_wait(rings.full(stage.index), stage.lap);
        release_stage(rings, stage.index, lane);
        stage.advance();
      }
      continue;
    }
    float accumulators[128];
    if constexpr (Shape::kGroupsAlongK) {  // what a group without rows has
#pragma unroll
      for (float& sum : accumulators) sum = 0.0f;
    }
    const int computing_threads = m_valid > 64 ? Shape::kConsumerThreads : Shape::kConsumerThreads / 2;
    if constexpr (Shape::kFp8) {
      if (n_valid > 128) {
        accumulate_fp8<Shape, 2>(accumulators, rings, stage, p, group, m, n, warpgroup, lane, thread);
      } else {
        accumulate_fp8<Shape, 1>(accumulators, rings, stage, p, group, m, n, warpgroup, lane, thread);
      }
      if constexpr (!Shape::kScaledA) scale_rowwise<Shape>(accumulators, p, group, m, m_valid, n, n_valid, warp, lane);
    } else if (Shape::kGated || n_valid > 128) {
      accumulate_bf16<Shape, 256>(accumulators, rings, stage, tile, computing_threads, warpgroup, lane, thread);
      if constexpr (Shape::kGated) gate_columns(accumulators);
    } else {
      accumulate_bf16<Shape, 128>(accumulators, rings, stage, tile, computing_threads, warpgroup, lane, thread);
    }

    if constexpr (Shape::kAddsInBlock) {
      add_boxes<Shape>(accumulators, rings, buffer, warpgroup, n_valid, thread);
    } else {
      const int first_row = m + 64 * warpgroup + (Shape::kTwoWeights ? group * p.group_rows : 0);
      store_tile<Shape>(accumulators, p, rings.staging(warpgroup), group, first_row, min(64, m_valid - 64 * warpgroup),
                        n, n_valid, thread);
    }
  }
  if (lane == 0) bulk_wait_read<0>();  // shared memory outlives the stores that read it
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    grouped_gemm_kernel(const __grid_constant__ GroupedGemmParameters p) {
  extern __shared__ __align__(1024) uint8_t shared[];
  const Rings<Shape> rings{shared_address(shared)};
  const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
  const int lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    if (rings.base % 1024 != 0) fault();
    for (int stage = 0; stage < Shape::kStages; ++stage) {
      mbarrier_init(rings.full(stage), 1);
      mbarrier_init(rings.empty(stage), 2 * Shape::kStageReaders);
    }
    for (int slot = 0; slot < Shape::kTileSlots; ++slot) {
      mbarrier_init(rings.tile_full(slot), 1);
      mbarrier_init(rings.tile_empty(slot), Shape::kTileReaders);
    }
    for (int i = 0; i < Shape::kOutputBarriers / 2; ++i) {
      mbarrier_init(rings.loaded(0, i), 1);
      mbarrier_init(rings.added(0, i), Shape::kConsumerWarps / Shape::kWarpgroups);
    }
    mbarrier_init_fence();
    prefetch_tensor_map(&p.a);
    prefetch_tensor_map(&p.a_half);
    prefetch_tensor_map(&p.b);
    prefetch_tensor_map(&p.output);
    if constexpr (Shape::kScaledA) prefetch_tensor_map(&p.a_scale);
  }
  cluster_sync();

  // A block may not leave while the other can still write into its shared memory or arrive on its barriers, so every
  // role ends in cluster_sync. Each role is a whole branch: only then does ptxas give it the registers it asks for.
  if (warp >= Shape::kConsumerWarps) {
    decrease_registers<40>();
    if (warp == Shape::kConsumerWarps) produce<Shape>(p, rings, lane);
    if constexpr (Shape::kAddsInBlock) {
      const int warpgroup = warp - Shape::kConsumerWarps - 1;
      if (0 <= warpgroup && warpgroup < Shape::kWarpgroups) move_output<Shape>(p, rings, warpgroup, lane);
    } else if constexpr (Shape::kGroupsAlongK) {
      if (warp == Shape::kConsumerWarps + 1) prefetch_output<Shape>(p, rings, lane);
    }
    cluster_sync();
  } else {
    increase_registers<232>();
    consume<Shape>(p, rings, threadIdx.x);
    cluster_sync();
  }
}

/// Launches one persistent block a multiprocessor, in clusters of two.
template <typename Shape>
void launch_grouped_gemm(const GroupedGemmParameters& parameters, int multiprocessors, cudaStream_t stream) {
  auto* kernel = grouped_gemm_kernel<Shape>;
  DT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = 2;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(multiprocessors / 2 * 2);
  config.blockDim = dim3(Shape::kThreads);
  config.dynamicSmemBytes = Shape::kSharedBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  DT_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, parameters));
}

}  // namespace deeptitan::cuda::sm90
