#pragma once

// The consumers' main loops: slices along K from the stages into accumulators in registers.

#include <cstdint>
#include <utility>

#include "kernels/cuda/grouped_gemm/sm90_grouped_gemm.h"
#include "kernels/cuda/grouped_gemm/sm90_kernel_shape.cuh"
#include "kernels/cuda/grouped_gemm/sm90_wgmma.cuh"
#include "kernels/cuda/sm90_primitives.cuh"

namespace deeptitan::cuda::sm90 {

/// Clears rows `valid`.. of the 64 rows along K of a stage, for operands whose rows run along K; the first `threads`
/// consumer threads, which are those that compute: both warpgroups or the first alone. Each kind meets at a barrier of
/// its own, the first alone at the one that its epilogue has: where a tile has one warpgroup's rows, the other may be
/// ahead, waiting for the first at the next tile, and a barrier met with two counts is an illegal instruction.
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
  named_barrier_sync(threads == Shape::kConsumerThreads ? kAllConsumersBarrier : kWarpgroupBarrier, threads);
}

/// accumulators [64, kN] = this warpgroup's rows of the tile, bf16. One slice stays in flight while the next is
/// awaited.
template <typename Shape, int kN>
__device__ __forceinline__ void accumulate_bf16(float* accumulators, const Rings<Shape>& rings,
                                                RingCursor<Shape::kStages>& stage, const TileWork& tile,
                                                int computing_threads, int warpgroup, int lane, int thread) {
  constexpr int kBoxBytes = 64 * 128;
  constexpr uint32_t kStepA = (Shape::kTransposeA ? 16 * 128 : 32) >> 4;
  constexpr uint32_t kStepB = (Shape::kTransposeB ? 16 * 128 : 32) >> 4;
  const int slices =
      Shape::kGroupsAlongK ? tile.slices(Shape::kTileK) : (tile.k_size + Shape::kTileK - 1) / Shape::kTileK;
  if (Shape::kGroupsAlongK && slices == 0) return;
  int left = tile.k_size, behind = tile.k_second;  // rows of those at hand that are left, and of those that follow
  int previous = 0;
  for (int slice = 0; slice < slices; ++slice) {
    mbarrier_wait(rings.full(stage.index), stage.lap);
    if constexpr (Shape::kGroupsAlongK) {
      if (left <= 0) left = behind;
      if (left < Shape::kTileK) clear_rows(rings, stage.index, left, computing_threads, thread);
      left -= Shape::kTileK;
    }
    const uint32_t a = make_descriptor(rings.a(stage.index) + warpgroup * Shape::kHalfABytes, kBoxBytes);
    const uint32_t b = make_descriptor(rings.b(stage.index), kBoxBytes);
    pin_registers<kN / 2>(accumulators);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int accumulate = step > 0 || slice > 0;
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
    if (slice > 0) {
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

/// Scales of a tile's weights: of each slice along K one for each block of 128 columns. A lane holds those of one slice
/// in 32, so that a slice takes its own from another lane instead of from memory.
template <int kBlocks>
class WeightScales {
 public:
  __device__ WeightScales(const GroupedGemmParameters& p, int group, int n, int slices)
      : slices_(slices), scales_(p.b_scales + (static_cast<int64_t>(group) * ((p.n + 127) / 128) + n / 128) * slices) {}

  /// Loads those of slices `first` .. `first` + 31, `first` a multiple of 32.
  __device__ void load(int first, int lane) {
    const int slice = min(first + lane, slices_ - 1);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) held_[block] = __ldg(scales_ + block * slices_ + slice);
  }
  __device__ float of(int block, int slice) const {
    return __shfl_sync(~0u, held_[block], slice);
  }

 private:
  int slices_;
  const float* scales_;
  float held_[kBlocks];
};

/// Calls visit with the numbers as constants, in order, while it returns true; whether every call did.
template <typename Visit, int... kNumbers>
__device__ __forceinline__ bool visit_while(const Visit& visit, std::integer_sequence<int, kNumbers...>) {
  return (visit(std::integral_constant<int, kNumbers>{}) && ...);
}

/// accumulators [64, 128 kWaves] = scale x (this warpgroup's rows of the tile), e4m3. The tensor cores keep few bits of
/// a sum of e4m3 products, so each slice of 128 along K is summed apart, a wave of 128 columns at a time, and added in
/// fp32, with its scales if it has them. While one warpgroup adds, the other's products run. Both take about as long,
/// so little may stand between a wave's additions and the next wave's products: each stage has code of its own, in
/// which the operands' descriptors are constants but for the block's shared memory, and beside the products the next
/// slice is awaited and this one's scales are fetched.
template <typename Shape, int kWaves>
__device__ __forceinline__ void accumulate_fp8(float* accumulators, const Rings<Shape>& rings,
                                               RingCursor<Shape::kStages>& stage, const GroupedGemmParameters& p,
                                               int group, int m, int n, int warpgroup, int lane, int thread) {
  constexpr int kStages = Shape::kStages;
  const unsigned slices = (p.k + 127) / 128;
  const uint32_t descriptor = make_descriptor(rings.base, 0);
  const uint32_t scale_offset = (m % 4 + (thread / 32) * 16 + lane / 4) * 4;
  WeightScales<kWaves> b_scales(p, group, n, slices);
  if constexpr (Shape::kScaledA) b_scales.load(0, lane);
#pragma unroll
  for (int i = 0; i < 64 * kWaves; ++i) accumulators[i] = 0.0f;

  mbarrier_wait(rings.full(stage.index), stage.lap);
  unsigned left = slices;
  // The slice in stage `number`, unless the tile begins in a later one; whether there are more.
  const auto multiply_slice = [&](auto number) {
    constexpr int kStage = decltype(number)::value;
    constexpr int kNext = (kStage + 1) % kStages;
    if (kStage < stage.index) return left > 0;
    const uint32_t next_lap = kNext == 0 ? stage.lap ^ 1 : stage.lap;
    const uint32_t a = descriptor + ((rings.a(kStage) - rings.base + warpgroup * Shape::kHalfABytes) >> 4);
    const uint32_t b = descriptor + ((rings.b(kStage) - rings.base) >> 4);
    float low[kWaves], high[kWaves];  // scales of the two rows this thread holds
#pragma unroll
    for (int wave = 0; wave < kWaves; ++wave) {
      float partial[64];
      pin_registers<64>(partial);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma_m64n128k32_e4m3(partial, a + step * 2, b + wave * (Shape::kHalfBBytes >> 4) + step * 2, step > 0);
      }
      wgmma_commit();
      if (Shape::kScaledA && wave == 0) {
        const float a_low = load_shared_float(rings.scale(kStage) + scale_offset);
        const float a_high = load_shared_float(rings.scale(kStage) + scale_offset + 32);
#pragma unroll
        for (int block = 0; block < kWaves; ++block) {
          const float b_scale = b_scales.of(block, slices - left);
          low[block] = a_low * b_scale;
          high[block] = a_high * b_scale;
        }
      }
      if (wave == 0) --left;
      if (wave == kWaves - 1 && left > 0) {
        if (Shape::kScaledA && (slices - left) % 32 == 0) b_scales.load(slices - left, lane);
        mbarrier_wait(rings.full(kNext), next_lap);
      }
      wgmma_wait<0>();
      pin_registers<64>(partial);
      if (wave == kWaves - 1) release_stage(rings, kStage, lane);
      float* sums = accumulators + 64 * wave;
#pragma unroll
      for (int i = 0; i < 64; i += 4) {
        if constexpr (Shape::kScaledA) {
          sums[i] = fmaf(low[wave], partial[i], sums[i]);
          sums[i + 1] = fmaf(low[wave], partial[i + 1], sums[i + 1]);
          sums[i + 2] = fmaf(high[wave], partial[i + 2], sums[i + 2]);
          sums[i + 3] = fmaf(high[wave], partial[i + 3], sums[i + 3]);
        } else {
          sums[i] += partial[i];
          sums[i + 1] += partial[i + 1];
          sums[i + 2] += partial[i + 2];
          sums[i + 3] += partial[i + 3];
        }
      }
      pin_registers<64>(sums);  // no addition slips behind the next wave's products, which need the registers
    }
    stage.index = kNext;
    stage.lap = next_lap;
    return left > 0;
  };
  while (visit_while(multiply_slice, std::make_integer_sequence<int, kStages>{})) {
  }
}

}  // namespace deeptitan::cuda::sm90
