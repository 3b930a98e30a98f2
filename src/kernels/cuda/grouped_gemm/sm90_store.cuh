#pragma once

// The consumers' epilogues: accumulators to the output, each warp its own 16 rows.

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_kernel_shape.cuh"
#include "kernels/cuda/grouped_gemm/sm90_primitives.cuh"

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

}  // namespace deeptitan::cuda::sm90
