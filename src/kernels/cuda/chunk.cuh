#pragma once

// Eight consecutive elements of a row: what a thread of the bandwidth-bound kernels reads or writes at a time. `n` (0
// to 8) says how many of them exist; `vector` that full chunks are aligned for one wide access.

#include <cstdint>

#include "core/bfloat16.h"
#include "core/float8.h"

namespace deeptitan::cuda {

inline constexpr int kChunk = 8;

/// Whether rows of `columns` elements of T, the first at `base`, can be accessed a chunk at a time.
template <typename T>
bool chunks_are_aligned(const T* base, int64_t columns) {
  constexpr uintptr_t kAlignment = kChunk * sizeof(T) < 16 ? kChunk * sizeof(T) : 16;
  return columns % kChunk == 0 && reinterpret_cast<uintptr_t>(base) % kAlignment == 0;
}

/// A chunk on its way from memory: fetch() only issues the loads, so that a thread can have many in flight before the
/// first unpack() waits. kVector: n is 0 or 8 and chunks are aligned.
template <typename T, bool kVector>
class FetchedChunk {
 public:
  __device__ void fetch(const T* p, int n) {
    if constexpr (kVector) {
#pragma unroll
      for (int i = 0; i < kWords; ++i) words_[i] = n > 0 ? reinterpret_cast<const uint4*>(p)[i] : uint4{};
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) values_[i] = i < n ? p[i] : T{};
    }
  }

  __device__ void unpack(float (&v)[kChunk]) const {
    if constexpr (!kVector) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) v[i] = to_float(values_[i]);
    } else if constexpr (sizeof(T) == sizeof(float)) {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        v[4 * i] = __uint_as_float(words_[i].x), v[4 * i + 1] = __uint_as_float(words_[i].y);
        v[4 * i + 2] = __uint_as_float(words_[i].z), v[4 * i + 3] = __uint_as_float(words_[i].w);
      }
    } else {
      const uint32_t pairs[kChunk / 2] = {words_[0].x, words_[0].y, words_[0].z, words_[0].w};
#pragma unroll
      for (int i = 0; i < kChunk / 2; ++i) {
        v[2 * i] = __uint_as_float(pairs[i] << 16);
        v[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
      }
    }
  }

 private:
  static constexpr int kWords = kChunk * sizeof(T) / sizeof(uint4);
  uint4 words_[kVector ? kWords : 1];
  T values_[kVector ? 1 : kChunk];
};

__device__ inline void load_chunk(float (&v)[kChunk], const bfloat16* p, int n, bool vector) {
  if (vector && n == kChunk) {
    const uint4 packed = *reinterpret_cast<const uint4*>(p);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = __uint_as_float(words[i] << 16);
      v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) v[i] = i < n ? to_float(p[i]) : 0.0f;
}

/// Two floats rounded to bf16, the first in the low half.
__device__ inline uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ inline void store_chunk(bfloat16* p, const float (&v)[kChunk], int n, bool vector) {
  if (vector && n == kChunk) {
    *reinterpret_cast<uint4*>(p) =
        make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < n) p[i].bits = static_cast<uint16_t>(pack_bf16(v[i], 0.0f));
  }
}

__device__ inline void store_chunk(float* p, const float (&v)[kChunk], int n, bool vector) {
  if (vector && n == kChunk) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4*>(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < n) p[i] = v[i];
  }
}

/// Two floats rounded to e4m3 as to_float8_e4m3 rounds, the first in the low byte.
__device__ inline uint32_t pack_e4m3(float low, float high) {
#if __CUDA_ARCH__ >= 890
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return to_float8_e4m3(low).bits | static_cast<uint32_t>(to_float8_e4m3(high).bits) << 8;
#endif
}

/// Eight e4m3 codes, the first in the lowest byte of x.
__device__ inline void store_chunk(float8_e4m3* p, uint2 codes, int n, bool vector) {
  if (vector && n == kChunk) {
    *reinterpret_cast<uint2*>(p) = codes;
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (i < n) p[i].bits = static_cast<uint8_t>((i < 4 ? codes.x : codes.y) >> (8 * (i % 4)));
  }
}

/// The values of two e4m3 codes, the first in the low byte; exact, since every e4m3 value is a binary16 value.
__device__ inline float2 unpack_e4m3(uint16_t codes) {
#if __CUDA_ARCH__ >= 890
  uint32_t halves;
  float2 values;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(values.x), "=f"(values.y)
      : "r"(halves));
  return values;
#else
  return make_float2(to_float(float8_e4m3{static_cast<uint8_t>(codes)}),
                     to_float(float8_e4m3{static_cast<uint8_t>(codes >> 8)}));
#endif
}

__device__ inline void load_chunk(float (&v)[kChunk], const float8_e4m3* p, int n, bool vector) {
  if (vector && n == kChunk) {
    const uint2 packed = *reinterpret_cast<const uint2*>(p);
#pragma unroll
    for (int i = 0; i < kChunk / 2; ++i) {
      const float2 pair = unpack_e4m3(static_cast<uint16_t>((i < 2 ? packed.x : packed.y) >> (16 * (i % 2))));
      v[2 * i] = pair.x;
      v[2 * i + 1] = pair.y;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kChunk; ++i) v[i] = i < n ? to_float(p[i]) : 0.0f;
}

}  // namespace deeptitan::cuda
