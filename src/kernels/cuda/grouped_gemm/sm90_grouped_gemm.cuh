#pragma once

// The Hopper grouped product: persistent clusters of two blocks, one producer warp and two consumer warpgroups a block.
//
// A block computes tiles of 128 x 256; each warpgroup holds 64 x 256 fp32 accumulators in registers. The producer walks
// the tiles (sm90_tile_scheduler.cuh) and keeps kStages slices of 128 bytes along K in flight in shared memory; the two
// blocks of a cluster each load half of the operand they share and multicast it. Three rings of mbarriers:
//   full[s]      one arrival with the slice's byte count: the TMA has written stage s.
//   empty[s]     16 arrivals, every consumer warp of both blocks: nobody reads stage s any more, in either block
//                (a multicast writes into both).
//   tile_full[t], tile_empty[t]: the tile's description, from the producer to the consumer warps of its block.
// The producer runs ahead into the next tile while the consumers store the last one.
//
// Ragged edges need no padding: A is loaded across the group's end (the rows there are another group's, and their
// products are not stored), K and N tails read as zero through the tensor maps' bounds. For the weight gradient the
// groups cut K itself: consumers clear the rows past the group's end in shared memory.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/error.h"
#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_primitives.cuh"
#include "kernels/cuda/grouped_gemm/sm90_tile_scheduler.cuh"
#include "kernels/cuda/grouped_gemm/sm90_wgmma.cuh"

namespace deeptitan::cuda::sm90 {

enum class Product { kBf16Forward, kBf16InputGradient, kBf16WeightGradient, kFp8Rowwise, kFp8Blockwise };

/// Sizes that follow from the kind of product and how shared memory is split between the pipeline and the epilogue.
template <Product kProduct_, int kStages_, int kChunkBuffers_>
struct KernelShape {
  static constexpr Product kProduct = kProduct_;
  static constexpr int kStages = kStages_;
  /// Buffers of 16 rows x 128 bytes that each consumer warp stages its results in.
  static constexpr int kChunkBuffers = kChunkBuffers_;
  /// Pairs of tile rows in a band of the walk.
  static constexpr int kBandPairs = 8;

  static constexpr bool kFp8 = kProduct == Product::kFp8Rowwise || kProduct == Product::kFp8Blockwise;
  static constexpr bool kScaledA = kProduct == Product::kFp8Blockwise;
  static constexpr bool kGroupsAlongK = kProduct == Product::kBf16WeightGradient;
  static constexpr int kTransposeA = kGroupsAlongK ? 1 : 0;
  static constexpr int kTransposeB = kGroupsAlongK || kProduct == Product::kBf16InputGradient ? 1 : 0;

  static constexpr int kTileK = kFp8 ? 128 : 64;  // 128 bytes
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
  static constexpr int kChunkBytes = 16 * 128;
  static constexpr int kWarpStagingBytes = kChunkBuffers * kChunkBytes;

  // Offsets in shared memory; everything a swizzled box touches starts at a multiple of 1024 bytes.
  static constexpr int kAOffset = 0;
  static constexpr int kBOffset = kAOffset + kStages * kABytes;
  static constexpr int kStagingOffset = kBOffset + kStages * kBBytes;
  static constexpr int kScaleOffset = kStagingOffset + kConsumerWarps * kWarpStagingBytes;
  static constexpr int kTileOffset = kScaleOffset + kStages * kScaleStageBytes;
  static constexpr int kBarrierOffset = kTileOffset + kTileSlots * 32;
  static constexpr int kSharedBytes = kBarrierOffset + 8 * (2 * kStages + 2 * kTileSlots);
  static_assert(kSharedBytes <= 232448, "more shared memory than a Hopper block can have");
};

/// Shared-memory addresses of the rings.
template <typename Shape>
struct Rings {
  uint32_t base;
  __device__ uint32_t a(int stage) const { return base + Shape::kAOffset + stage * Shape::kABytes; }
  __device__ uint32_t b(int stage) const { return base + Shape::kBOffset + stage * Shape::kBBytes; }
  __device__ uint32_t scale(int stage) const { return base + Shape::kScaleOffset + stage * Shape::kScaleStageBytes; }
  __device__ uint32_t staging(int warp) const { return base + Shape::kStagingOffset + warp * Shape::kWarpStagingBytes; }
  __device__ uint32_t tile(int slot) const { return base + Shape::kTileOffset + slot * 32; }
  __device__ uint32_t full(int stage) const { return base + Shape::kBarrierOffset + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return full(Shape::kStages + stage); }
  __device__ uint32_t tile_full(int slot) const { return full(2 * Shape::kStages + slot); }
  __device__ uint32_t tile_empty(int slot) const { return tile_full(Shape::kTileSlots + slot); }
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

__device__ __forceinline__ void store_shared(uint32_t address, int4 value) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
}

__device__ __forceinline__ int4 load_shared(uint32_t address) {
  int4 value;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ float load_shared_float(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// ---------------------------------------------------------------------------------------------------- producer

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

// ---------------------------------------------------------------------------------------------------- consumers

/// Lets both blocks' producers overwrite a stage: this warp has read it.
template <typename Shape>
__device__ __forceinline__ void release_stage(const Rings<Shape>& rings, int stage, int lane) {
  if (lane < 2) mbarrier_arrive_cluster(rings.empty(stage), lane);
}

/// Clears rows `valid`.. of the 64 rows along K of a stage, for operands whose rows run along K. All consumer threads.
template <typename Shape>
__device__ __forceinline__ void clear_rows(const Rings<Shape>& rings, int stage, int valid, int thread) {
  constexpr int kBoxBytes = 64 * 128;
  const int chunks = (64 - valid) * 8;
  for (int box = 0; box < (Shape::kABytes + Shape::kBBytes) / kBoxBytes; ++box) {
    const uint32_t address = box < Shape::kABytes / kBoxBytes ? rings.a(stage) + box * kBoxBytes
                                                              : rings.b(stage) + box * kBoxBytes - Shape::kABytes;
    for (int chunk = thread; chunk < chunks; chunk += Shape::kConsumerThreads) {
      store_shared(address + valid * 128 + chunk * 16, make_int4(0, 0, 0, 0));
    }
  }
  fence_async_shared();
  named_barrier_sync(1, Shape::kConsumerThreads);
}

/// Waits for the stage's bytes; the last slice of a weight gradient is cleared past the group's end.
template <typename Shape>
__device__ __forceinline__ void wait_slice(const Rings<Shape>& rings, const RingCursor<Shape::kStages>& stage, int k,
                                           int k_size, int thread) {
  mbarrier_wait(rings.full(stage.index), stage.lap);
  if constexpr (Shape::kGroupsAlongK) {
    if (k_size - k < Shape::kTileK) clear_rows(rings, stage.index, k_size - k, thread);
  }
}

/// accumulators [64, kN] = this warpgroup's rows of the tile, bf16. One slice stays in flight while the next is
/// awaited.
template <typename Shape, int kN>
__device__ __forceinline__ void accumulate_bf16(float* accumulators, const Rings<Shape>& rings,
                                                RingCursor<Shape::kStages>& stage, int k_size, int warpgroup, int lane,
                                                int thread) {
  constexpr int kBoxBytes = 64 * 128;
  constexpr uint32_t kStepA = (Shape::kTransposeA ? 16 * 128 : 32) >> 4;
  constexpr uint32_t kStepB = (Shape::kTransposeB ? 16 * 128 : 32) >> 4;
  int previous = 0;
  for (int k = 0; k < k_size; k += Shape::kTileK) {
    wait_slice(rings, stage, k, k_size, thread);
    const uint32_t a = make_descriptor(rings.a(stage.index) + warpgroup * Shape::kHalfABytes, kBoxBytes);
    const uint32_t b = make_descriptor(rings.b(stage.index), kBoxBytes);
    pin_registers<kN / 2>(accumulators);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int accumulate = step > 0 || k > 0;
      if constexpr (kN == 256) {
        wgmma_m64n256k16_bf16<Shape::kTransposeA, Shape::kTransposeB>(accumulators, a + step * kStepA,
                                                                      b + step * kStepB, accumulate);
      } else {
        wgmma_m64n128k16_bf16<Shape::kTransposeA, Shape::kTransposeB>(accumulators, a + step * kStepA,
                                                                      b + step * kStepB, accumulate);
      }
    }
    wgmma_commit();
    pin_registers<kN / 2>(accumulators);
    if (k > 0) {
      wgmma_wait<1>();
      release_stage(rings, previous, lane);
    }
    previous = stage.index;
    stage.advance();
  }
  wgmma_wait<0>();
  pin_registers<kN / 2>(accumulators);
  release_stage(rings, previous, lane);
}

/// accumulators [64, 256] += scale x (this warpgroup's rows of the tile), e4m3. The tensor cores keep few bits of a sum
/// of e4m3 products, so each 128 along K is summed apart and added in fp32, with its scales if it has them. While one
/// warpgroup adds, the other's products run.
template <typename Shape>
__device__ __forceinline__ void accumulate_fp8(float* accumulators, const Rings<Shape>& rings,
                                               RingCursor<Shape::kStages>& stage, const GroupedGemmParameters& p,
                                               int group, int m, int n, int n_valid, int warpgroup, int lane,
                                               int thread) {
  const int k_blocks = (p.k + 127) / 128;
  const int n_blocks = (p.n + 127) / 128;
  const int waves = n_valid > 128 ? 2 : 1;
  const float* b_scale_0 = nullptr;
  const float* b_scale_1 = nullptr;
  float next_0 = 1.0f, next_1 = 1.0f;
  if constexpr (Shape::kScaledA) {
    b_scale_0 = p.b_scales + (static_cast<int64_t>(group) * n_blocks + n / 128) * k_blocks;
    b_scale_1 = waves == 2 ? b_scale_0 + k_blocks : b_scale_0;
    next_0 = __ldg(b_scale_0);
    next_1 = __ldg(b_scale_1);
  }
#pragma unroll
  for (int i = 0; i < 128; ++i) accumulators[i] = 0.0f;

  for (int block = 0; block < k_blocks; ++block) {
    const float b_0 = next_0, b_1 = next_1;
    if constexpr (Shape::kScaledA) {
      const int next = min(block + 1, k_blocks - 1);
      next_0 = __ldg(b_scale_0 + next);
      next_1 = __ldg(b_scale_1 + next);
    }
    mbarrier_wait(rings.full(stage.index), stage.lap);
    float a_low = 1.0f, a_high = 1.0f;  // scales of the two rows this thread holds
    if constexpr (Shape::kScaledA) {
      const int row = m % 4 + (thread / 32) * 16 + lane / 4;
      a_low = load_shared_float(rings.scale(stage.index) + row * 4);
      a_high = load_shared_float(rings.scale(stage.index) + (row + 8) * 4);
    }
    const uint32_t a = make_descriptor(rings.a(stage.index) + warpgroup * Shape::kHalfABytes, 0);
    const uint32_t b = make_descriptor(rings.b(stage.index), 0);
#pragma unroll
    for (int wave = 0; wave < 2; ++wave) {
      if (wave >= waves) break;
      float partial[64];
      pin_registers<64>(partial);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma_m64n128k32_e4m3(partial, a + step * 2, b + wave * (Shape::kHalfBBytes >> 4) + step * 2, step > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      pin_registers<64>(partial);
      if (wave == waves - 1) release_stage(rings, stage.index, lane);
      float* sums = accumulators + 64 * wave;
      const float low = a_low * (wave == 0 ? b_0 : b_1);
      const float high = a_high * (wave == 0 ? b_0 : b_1);
#pragma unroll
      for (int i = 0; i < 64; i += 4) {
        if constexpr (Shape::kScaledA) {
          sums[i] = fmaf(low, partial[i], sums[i]);
          sums[i + 1] = fmaf(low, partial[i + 1], sums[i + 1]);
          sums[i + 2] = fmaf(high, partial[i + 2], sums[i + 2]);
          sums[i + 3] = fmaf(high, partial[i + 3], sums[i + 3]);
        } else {
          sums[i] += partial[i];
          sums[i + 1] += partial[i + 1];
          sums[i + 2] += partial[i + 2];
          sums[i + 3] += partial[i + 3];
        }
      }
    }
    stage.advance();
  }
}

/// accumulators[row, column] *= a_scales[row] x b_scales[group, column].
template <typename Shape>
__device__ __forceinline__ void scale_rowwise(float* accumulators, const GroupedGemmParameters& p, int group, int m,
                                              int m_valid, int n, int n_valid, int warp, int lane) {
  const int row = warp * 16 + lane / 4;
  const float low = row < m_valid ? p.a_scales[m + row] : 0.0f;
  const float high = row + 8 < m_valid ? p.a_scales[m + row + 8] : 0.0f;
  const float* b_scales = p.b_scales + static_cast<int64_t>(group) * p.n + n;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int column = 8 * i + 2 * (lane % 4);
    const float first = column < n_valid ? b_scales[column] : 0.0f;
    const float second = column + 1 < n_valid ? b_scales[column + 1] : 0.0f;
    accumulators[4 * i] *= low * first;
    accumulators[4 * i + 1] *= low * second;
    accumulators[4 * i + 2] *= high * first;
    accumulators[4 * i + 3] *= high * second;
  }
}

__device__ __forceinline__ uint32_t pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// Writes this warp's 16 rows of the tile as bf16, 64 columns at a time: registers to swizzled shared memory, then one
/// TMA store; rows past the group's end belong to another group, so a slab that has such rows is written row by row.
template <typename Shape>
__device__ __forceinline__ void store_rows_bf16(const float* accumulators, const GroupedGemmParameters& p,
                                                uint32_t staging, int m, int rows, int n, int n_valid, int lane) {
  const uint32_t row = lane % 16;
#pragma unroll
  for (int chunk = 0; chunk < kTileN / 64; ++chunk) {
    if (64 * chunk < n_valid) {
      const uint32_t buffer = staging + (chunk % Shape::kChunkBuffers) * Shape::kChunkBytes;
      if (lane == 0) bulk_wait_read<Shape::kChunkBuffers - 1>();
      __syncwarp();
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {  // 16 columns: lanes 0-15 address the first eight, lanes 16-31 the others
        const float* d = accumulators + 32 * chunk + 8 * pair;
        const uint32_t address = buffer + row * 128 + (((2 * pair + lane / 16) ^ (row % 8)) << 4);
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                     "r"(pack_bf16(d[0], d[1])), "r"(pack_bf16(d[2], d[3])), "r"(pack_bf16(d[4], d[5])),
                     "r"(pack_bf16(d[6], d[7]))
                     : "memory");
      }
      if (rows == 16) {
        fence_async_shared();
        __syncwarp();
        if (lane == 0) tma_store(&p.output, buffer, n + 64 * chunk, m, 0);
      } else {
        __syncwarp();
        __nv_bfloat16* output = static_cast<__nv_bfloat16*>(p.output_rows);
#pragma unroll
        for (int quarter = 0; quarter < 4; ++quarter) {
          const int slab_row = 4 * quarter + lane / 8;
          const int column = 64 * chunk + 8 * (lane % 8);
          if (slab_row < rows && column < n_valid) {
            const int4 value = load_shared(buffer + slab_row * 128 + (((lane % 8) ^ (slab_row % 8)) << 4));
            *reinterpret_cast<int4*>(output + static_cast<int64_t>(m + slab_row) * p.n + n + column) = value;
          }
        }
        __syncwarp();
      }
    }
    // One group a chunk, empty or not, so that bulk_wait_read counts chunks.
    if (lane == 0) bulk_commit();
  }
}

/// Adds this warp's 16 rows of the tile to the fp32 output, 32 columns at a time; the output's bounds cut the tails.
template <typename Shape>
__device__ __forceinline__ void add_rows_fp32(const float* accumulators, const GroupedGemmParameters& p,
                                              uint32_t staging, int group, int m, int n, int n_valid, int lane) {
  const uint32_t row = lane / 4;
#pragma unroll
  for (int chunk = 0; chunk < kTileN / 32; ++chunk) {
    if (32 * chunk < n_valid) {
      const uint32_t buffer = staging + (chunk % Shape::kChunkBuffers) * Shape::kChunkBytes;
      if (lane == 0) bulk_wait_read<Shape::kChunkBuffers - 1>();
      __syncwarp();
#pragma unroll
      for (int block = 0; block < 4; ++block) {  // 8 columns
        const float* d = accumulators + 16 * chunk + 4 * block;
        const uint32_t word = (((2 * block + (lane % 4) / 2) ^ row) << 4) + (lane % 2) * 8;
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(buffer + row * 128 + word), "f"(d[0]), "f"(d[1])
                     : "memory");
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(buffer + (row + 8) * 128 + word), "f"(d[2]), "f"(d[3])
                     : "memory");
      }
      fence_async_shared();
      __syncwarp();
      if (lane == 0) tma_reduce_add(&p.output, buffer, n + 32 * chunk, m, group);
    }
    if (lane == 0) bulk_commit();
  }
}

/// A consumer warpgroup: one tile after another until the producer says there are no more.
template <typename Shape>
__device__ __forceinline__ void consume(const GroupedGemmParameters& p, const Rings<Shape>& rings, int thread) {
  const int warp = __shfl_sync(~0u, thread / 32, 0);
  const int lane = thread % 32;
  const int warpgroup = warp / 4;
  RingCursor<Shape::kStages> stage;
  RingCursor<Shape::kTileSlots> slot;
  float accumulators[128];
  while (true) {
    mbarrier_wait(rings.tile_full(slot.index), slot.lap);
    const int4 first = load_shared(rings.tile(slot.index));
    const int4 second = load_shared(rings.tile(slot.index) + 16);
    __syncwarp();
    if (lane == 0) mbarrier_arrive(rings.tile_empty(slot.index));
    slot.advance();
    const int group = first.x, m = first.y, m_valid = first.z, n = first.w;
    const int n_valid = second.x, k_size = second.y;
    if (group < 0) break;

    if (warpgroup * 64 >= m_valid) {  // nothing to compute here, but the stages must go round
      for (int k = 0; k < k_size; k += Shape::kTileK) {
        wait_slice(rings, stage, k, k_size, thread);
        release_stage(rings, stage.index, lane);
        stage.advance();
      }
      continue;
    }
    if constexpr (Shape::kFp8) {
      accumulate_fp8(accumulators, rings, stage, p, group, m, n, n_valid, warpgroup, lane, thread);
      if constexpr (!Shape::kScaledA) scale_rowwise<Shape>(accumulators, p, group, m, m_valid, n, n_valid, warp, lane);
    } else if (n_valid > 128) {
      accumulate_bf16<Shape, 256>(accumulators, rings, stage, k_size, warpgroup, lane, thread);
    } else {
      accumulate_bf16<Shape, 128>(accumulators, rings, stage, k_size, warpgroup, lane, thread);
    }

    const int slab = m + 16 * warp;
    const int slab_rows = min(16, m_valid - 16 * warp);
    if (slab_rows > 0) {
      if constexpr (Shape::kGroupsAlongK) {
        add_rows_fp32<Shape>(accumulators, p, rings.staging(warp), group, slab, n, n_valid, lane);
      } else {
        store_rows_bf16<Shape>(accumulators, p, rings.staging(warp), slab, slab_rows, n, n_valid, lane);
      }
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
      mbarrier_init(rings.empty(stage), 2 * Shape::kConsumerWarps);
    }
    for (int slot = 0; slot < Shape::kTileSlots; ++slot) {
      mbarrier_init(rings.tile_full(slot), 1);
      mbarrier_init(rings.tile_empty(slot), Shape::kConsumerWarps);
    }
    mbarrier_init_fence();
    prefetch_tensor_map(&p.a);
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
