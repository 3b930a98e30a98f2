#pragma once

// The consumers' main loops: slices along K from the stages into accumulators in registers.

#include <cstdint>

#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_kernel_shape.cuh"
#include "kernels/cuda/grouped_gemm/sm90_primitives.cuh"
#include "kernels/cuda/grouped_gemm/sm90_wgmma.cuh"

namespace deeptitan::cuda::sm90 {

/// Clears rows `valid`.. of the 64 rows along K of a stage, for operands whose rows run along K; the first `threads`
/// consumer threads, which are those that compute.
template <typename Shape>
__device__ __forceinline__ void clear_rows(const Rings<Shape>& rings, int stage, int valid, int threads, int thread) {
  constexpr int kBoxBytes = 64 * 128;
  const int chunks = (64 - valid) * 8;
  for (int box = 0; box < (Shape::kABytes + Shape::kBBytes) / kBoxBytes; ++box) {
    const uint32_t address = box < Shape::kABytes / kBoxBytes ? rings.a(stage) + box * kBoxBytes
                                                              : rings.b(stage) + box * kBoxBytes - Shape::kABytes;
    for (int chunk = thread; chunk < chunks; chunk += threads) {
      store_shared(address + valid * 128 + chunk * 16, make_int4(0, 0, 0, 0));
    }
  }
  fence_async_shared();
  named_barrier_sync(1, threads);
}

/// accumulators [64, kN] = this warpgroup's rows of the tile, bf16. One slice stays in flight while the next is
/// awaited.
template <typename Shape, int kN>
__device__ __forceinline__ void accumulate_bf16(float* accumulators, const Rings<Shape>& rings,
                                                RingCursor<Shape::kStages>& stage, int k_size, int computing_threads,
                                                int warpgroup, int lane, int thread) {
  constexpr int kBoxBytes = 64 * 128;
  constexpr uint32_t kStepA = (Shape::kTransposeA ? 16 * 128 : 32) >> 4;
  constexpr uint32_t kStepB = (Shape::kTransposeB ? 16 * 128 : 32) >> 4;
  int previous = 0;
  for (int k = 0; k < k_size; k += Shape::kTileK) {
    mbarrier_wait(rings.full(stage.index), stage.lap);
    if constexpr (Shape::kGroupsAlongK) {
      if (k_size - k < Shape::kTileK) clear_rows(rings, stage.index, k_size - k, computing_threads, thread);
    }
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

}  // namespace deeptitan::cuda::sm90
