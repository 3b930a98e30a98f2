#pragma once

// The consumers' epilogues: accumulators to the output, each warp its own 16 rows.

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/activation/swiglu.cuh"
#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_kernel_shape.cuh"
#include "kernels/cuda/sm90_primitives.cuh"

namespace deeptitan::cuda::sm90 {

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

/// accumulators [64, 128] = SwiGLU of the gate's 128 columns and the up projection's, which lie behind them, both
/// rounded first: what the product stores, and SwiGLU makes of that.
__device__ __forceinline__ void gate_columns(float* accumulators) {
  const auto rounded = [](float sum) { return __bfloat162float(__float2bfloat16_rn(sum)); };
#pragma unroll
  for (int i = 0; i < 64; ++i) accumulators[i] = swiglu(rounded(accumulators[i]), rounded(accumulators[64 + i]));
}

__device__ __forceinline__ uint32_t pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// This warp's 16 rows of a chunk as bf16, 64 columns, swizzled: lanes 0-15 address eight columns, lanes 16-31 the
/// next.
__device__ __forceinline__ void stage_bf16(const float* d, uint32_t rows, int lane) {
  const uint32_t row = lane % 16;
#pragma unroll
  for (int pair = 0; pair < 4; ++pair, d += 8) {
    const uint32_t address = rows + row * 128 + (((2 * pair + lane / 16) ^ (row % 8)) << 4);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(pack_bf16(d[0], d[1])), "r"(pack_bf16(d[2], d[3])), "r"(pack_bf16(d[4], d[5])),
                 "r"(pack_bf16(d[6], d[7]))
                 : "memory");
  }
}

/// This warp's 16 rows of a chunk as fp32, 32 columns, swizzled. Odd rows write their blocks of eight columns in
/// another order than even ones: then the four rows that write at a time meet in no bank. kAdds: to what lies there.
template <bool kAdds>
__device__ __forceinline__ void stage_fp32(const float* d, uint32_t rows, int lane) {
  const uint32_t row = lane / 4;
  const bool odd = row % 2 != 0;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const float* even_block = d + 4 * step;
    const float* odd_block = d + 4 * (step ^ 2);
    const uint32_t block = odd ? step ^ 2 : step;
    const uint32_t word = (((2 * block + lane % 4 / 2) ^ row) << 4) + lane % 2 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t address = rows + (row + 8 * half) * 128 + word;
      float first = odd ? odd_block[2 * half] : even_block[2 * half];
      float second = odd ? odd_block[2 * half + 1] : even_block[2 * half + 1];
      if constexpr (kAdds) {
        float x, y;
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "r"(address) : "memory");
        first += x;
        second += y;
      }
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(first), "f"(second) : "memory");
    }
  }
}

/// Adds the warpgroup's 64 rows of the tile to the weight gradient's, which come to its buffers and leave them by
/// move_output: 32 columns at a time.
template <typename Shape>
__device__ __forceinline__ void add_boxes(const float* accumulators, const Rings<Shape>& rings,
                                          RingCursor<Shape::kChunkBuffers>& buffer, int warpgroup, int n_valid,
                                          int thread) {
  const int lane = thread % 32;
  const uint32_t rows = rings.staging(warpgroup) + thread / 32 % 4 * 16 * 128;
#pragma unroll
  for (int chunk = 0; chunk < kTileN / 32; ++chunk) {
    mbarrier_wait(rings.loaded(warpgroup, buffer.index), buffer.lap);
    if (32 * chunk < n_valid) {
      stage_fp32<true>(accumulators + 16 * chunk, rows + buffer.index * Shape::kChunkBytes, lane);
      fence_async_shared();
    }
    __syncwarp();
    if (lane == 0) mbarrier_arrive(rings.added(warpgroup, buffer.index));
    buffer.advance();
  }
}

/// The warp that brings a warpgroup what its tiles are added to, kChunkBuffers chunks ahead, and writes the sums back.
/// Chunks beyond a width go round empty. A chunk's buffer is free when the store after it is on its way.
template <typename Shape>
__device__ __forceinline__ void move_output(const GroupedGemmParameters& p, const Rings<Shape>& rings, int warpgroup,
                                            int lane) {
  constexpr int kColumns = 32, kChunks = kTileN / kColumns;
  static_assert(Shape::kChunkBuffers <= kChunks, "loads are at most a tile ahead of stores");
  RingCursor<Shape::kTileSlots> slot;
  RingCursor<Shape::kChunkBuffers> load_buffer, store_buffer;
  const auto next = [&] {  // of which this warpgroup has rows
    TileWork tile = next_tile(rings, slot, lane);
    while (tile.group >= 0 && (warpgroup * 64 >= tile.m_valid || tile.k_size + tile.k_second == 0)) {
      tile = next_tile(rings, slot, lane);
    }
    return tile;
  };
  TileWork loading = next();
  TileWork storing = loading;
  int load_chunk = 0;
  const auto load = [&] {
    if (loading.group < 0) return;
    if (lane == 0) {
      const uint32_t barrier = rings.loaded(warpgroup, load_buffer.index);
      if (kColumns * load_chunk < loading.n_valid) {
        mbarrier_arrive_expect(barrier, Shape::kChunkBytes);
        tma_load(rings.staging(warpgroup) + load_buffer.index * Shape::kChunkBytes, &p.output, barrier,
                 {loading.n + kColumns * load_chunk, loading.m + 64 * warpgroup, loading.group});
      } else {
        mbarrier_arrive(barrier);
      }
    }
    load_buffer.advance();
    if (++load_chunk < kChunks) return;
    load_chunk = 0;
    loading = next();
  };
  for (int i = 0; i < Shape::kChunkBuffers; ++i) load();
  bool first = true;
  while (storing.group >= 0) {
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      mbarrier_wait(rings.added(warpgroup, store_buffer.index), store_buffer.lap);
      if (lane == 0) {
        if (kColumns * chunk < storing.n_valid) {
          tma_store(&p.output, rings.staging(warpgroup) + store_buffer.index * Shape::kChunkBytes,
                    storing.n + kColumns * chunk, storing.m + 64 * warpgroup, storing.group);
        }
        bulk_commit();
        bulk_wait_read<1>();
      }
      __syncwarp();
      store_buffer.advance();
      if (!first) load();
      first = false;
    }
    storing = loading;
  }
  if (lane == 0) bulk_wait_read<0>();
}

/// Writes the warpgroup's 64 rows of the tile as bf16, or as (or added to) the weight gradient in fp32: 128 bytes of
/// each row at a time, registers to shared memory and from there one TMA box. Bounds cut the tails of a width and of
/// the weight gradient.
template <typename Shape>
__device__ __forceinline__ void store_boxes(const float* accumulators, const GroupedGemmParameters& p, uint32_t staging,
                                            int group, int m, int n, int n_valid, int thread) {
  constexpr int kColumns = Shape::kGroupsAlongK ? 32 : 64;
  const int lane = thread % 32;
  const uint32_t warp_rows = thread / 32 % 4 * 16 * 128;
  const bool elected = thread % 128 == 0;
  const int barrier = kWarpgroupBarrier + thread / 128;
#pragma unroll
  for (int chunk = 0; chunk < Shape::kColumns / kColumns; ++chunk) {
    if (kColumns * chunk < n_valid) {
      const uint32_t buffer = staging + chunk % Shape::kChunkBuffers * Shape::kChunkBytes;
      if (elected) bulk_wait_read<Shape::kChunkBuffers - 1>();
      named_barrier_sync(barrier, 128);
      const float* d = accumulators + kColumns / 2 * chunk;
      if constexpr (Shape::kGroupsAlongK) {
        stage_fp32<false>(d, buffer + warp_rows, lane);
      } else {
        stage_bf16(d, buffer + warp_rows, lane);
      }
      fence_async_shared();
      named_barrier_sync(barrier, 128);
      if (elected) {
        if (Shape::kGroupsAlongK && p.accumulate) {
          tma_reduce_add(&p.output, buffer, n + kColumns * chunk, m, group);
        } else {
          tma_store(&p.output, buffer, n + kColumns * chunk, m, Shape::kGroupsAlongK ? group : 0);
        }
      }
    }
    // One group a chunk, empty or not, so that bulk_wait_read counts chunks.
    if (elected) bulk_commit();
  }
}

/// As store_boxes for bf16 where only `rows` of the 64 are the group's, and a box would overwrite another group's: each
/// warp writes its own 16 rows, one by one.
template <typename Shape>
__device__ __forceinline__ void store_rows(const float* accumulators, const GroupedGemmParameters& p, uint32_t staging,
                                           int m, int rows, int n, int n_valid, int thread) {
  const int lane = thread % 32;
  const int first_row = thread / 32 % 4 * 16;
  const uint32_t column = lane % 8 * 8;
  if (thread % 128 == 0) bulk_wait_read<0>();
  named_barrier_sync(kWarpgroupBarrier + thread / 128, 128);
  __nv_bfloat16* output =
      static_cast<__nv_bfloat16*>(p.output_rows) + static_cast<int64_t>(m + first_row) * p.n + n + column;
#pragma unroll
  for (int chunk = 0; chunk < Shape::kColumns / 64; ++chunk) {
    if (64 * chunk >= n_valid) break;
    const uint32_t buffer = staging + chunk % Shape::kChunkBuffers * Shape::kChunkBytes + first_row * 128;
    stage_bf16(accumulators + 32 * chunk, buffer, lane);
    __syncwarp();
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      const int row = 4 * quarter + lane / 8;
      if (first_row + row < rows && 64 * chunk + static_cast<int>(column) < n_valid) {
        const int4 value = load_shared<int4>(buffer + row * 128 + ((lane % 8 ^ row % 8) << 4));
        *reinterpret_cast<int4*>(output + static_cast<int64_t>(row) * p.n + 64 * chunk) = value;
      }
    }
    __syncwarp();
  }
}

/// The epilogue of a warpgroup whose first `rows` rows of the tile, at most 64, are to be stored.
template <typename Shape>
__device__ __forceinline__ void store_tile(const float* accumulators, const GroupedGemmParameters& p, uint32_t staging,
                                           int group, int m, int rows, int n, int n_valid, int thread) {
  if (Shape::kGroupsAlongK || rows == 64) {
    store_boxes<Shape>(accumulators, p, staging, group, m, n, n_valid, thread);
  } else {
    store_rows<Shape>(accumulators, p, staging, m, rows, n, n_valid, thread);
  }
}

}  // namespace deeptitan::cuda::sm90
