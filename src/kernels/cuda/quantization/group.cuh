#pragma once

// A group of 128 values in the registers of eight threads: thread t of the eight has the chunks t and t + 8, so that
// the eight together read and write neighbouring bytes.

#include <cstdint>

#include "kernels/cuda/chunk.cuh"
#include "kernels/cuda/warp.cuh"
#include "kernels/quantization.h"

namespace deeptitan::cuda {

inline constexpr int kThreadsOfGroup = 8;
inline constexpr int kChunksOfThread = kQuantizationGroup / kChunk / kThreadsOfGroup;

struct GroupValues {
  float v[kChunksOfThread][kChunk];
};
struct GroupCodes {
  uint2 codes[kChunksOfThread];
};

/// The column of chunk i of thread t (0 to 7) within its group.
__device__ constexpr int column_in_group(int t, int i) {
  return (t + i * kThreadsOfGroup) * kChunk;
}

/// How many of the eight elements at `column` exist.
__device__ inline int chunk_elements(int64_t column, int64_t columns) {
  return static_cast<int>(max(min(columns - column, static_cast<int64_t>(kChunk)), int64_t{0}));
}

__device__ inline bool is_finite(float x) {
  return fabsf(x) < INFINITY;
}

/// The largest finite magnitude among v and what `reduce` puts beside it; `infinite` says whether there was an
/// infinity. fmaxf drops NaN, and an infinity is rare, so it costs a second look only where one is met. `reduce` gives
/// all threads that share the scale the maximum of theirs, the same in all of them.
template <int kChunks, typename Reduce>
__device__ float finite_amax(const float (&v)[kChunks][kChunk], bool& infinite, const Reduce& reduce) {
  float amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunks * kChunk; ++i) amax = fmaxf(amax, fabsf(v[i / kChunk][i % kChunk]));
  amax = reduce(amax);
  infinite = amax == INFINITY;
  if (!infinite) return amax;
  amax = 0.0f;
#pragma unroll
  for (int i = 0; i < kChunks * kChunk; ++i) {
    const float magnitude = fabsf(v[i / kChunk][i % kChunk]);
    amax = fmaxf(amax, magnitude < INFINITY ? magnitude : 0.0f);
  }
  return reduce(amax);
}

/// The e4m3 codes of a chunk's values. The conversion makes NaN of NaN; where `infinite` is set, of infinities too.
__device__ inline uint2 round_chunk(const float (&v)[kChunk], float inverse, bool infinite) {
  float scaled[kChunk];
#pragma unroll
  for (int i = 0; i < kChunk; ++i) scaled[i] = exact_mul(v[i], inverse);
  if (infinite) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) scaled[i] = is_finite(v[i]) ? scaled[i] : NAN;
  }
  return make_uint2(pack_e4m3(scaled[0], scaled[1]) | pack_e4m3(scaled[2], scaled[3]) << 16,
                    pack_e4m3(scaled[4], scaled[5]) | pack_e4m3(scaled[6], scaled[7]) << 16);
}

/// Quantises the group that this thread and its seven neighbours hold. All threads of the warp call it.
__device__ inline GroupCodes quantize_group(GroupScale& scale, const GroupValues& values, ScaleKind kind) {
  const uint32_t eight = 0xffu << (threadIdx.x % kWarp / kThreadsOfGroup * kThreadsOfGroup);
  bool infinite;
  const float amax = finite_amax(values.v, infinite, [eight](float x) {
#pragma unroll
    for (int width = kThreadsOfGroup / 2; width >= 1; width /= 2) x = fmaxf(x, __shfl_xor_sync(eight, x, width));
    return x;
  });
  scale = group_scale(amax, kind);
  GroupCodes out;
#pragma unroll
  for (int i = 0; i < kChunksOfThread; ++i) out.codes[i] = round_chunk(values.v[i], scale.inverse, infinite);
  return out;
}

}  // namespace deeptitan::cuda
