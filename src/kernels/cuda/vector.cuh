#pragma once

// Four neighbours of a row at a time, for operations element by element.

#include <cstdint>

#include "kernels/cuda/block.cuh"

namespace deeptitan::cuda {

inline constexpr int kVector = 4;

/// kCount elements as floats; four are read as one word of 16 or 8 bytes.
template <int kCount>
struct Floats {
  float at[kCount];
};
template <int kCount>
__device__ Floats<kCount> load_floats(const float* p) {
  if constexpr (kCount == 1) {
    return {{*p}};
  } else {
    const float4 word = *reinterpret_cast<const float4*>(p);
    return {{word.x, word.y, word.z, word.w}};
  }
}
template <int kCount>
__device__ Floats<kCount> load_floats(const bfloat16* p) {
  if constexpr (kCount == 1) {
    return {{to_float(*p)}};
  } else {
    const uint2 word = *reinterpret_cast<const uint2*>(p);
    return {{__uint_as_float(word.x << 16), __uint_as_float(word.x & 0xffff0000u), __uint_as_float(word.y << 16),
             __uint_as_float(word.y & 0xffff0000u)}};
  }
}
template <int kCount>
__device__ void store_floats(float* p, const Floats<kCount>& x) {
  if constexpr (kCount == 1) {
    *p = x.at[0];
  } else {
    *reinterpret_cast<float4*>(p) = make_float4(x.at[0], x.at[1], x.at[2], x.at[3]);
  }
}
template <int kCount>
__device__ void store_floats(bfloat16* p, const Floats<kCount>& x) {
  if constexpr (kCount == 1) {
    *p = to_bfloat16(x.at[0]);
  } else {
    uint2 word;
    word.x = to_bfloat16(x.at[0]).bits | static_cast<uint32_t>(to_bfloat16(x.at[1]).bits) << 16;
    word.y = to_bfloat16(x.at[2]).bits | static_cast<uint32_t>(to_bfloat16(x.at[3]).bits) << 16;
    *reinterpret_cast<uint2*>(p) = word;
  }
}

/// Row and column of place `i` in rows of `columns`; divisions of 64 bits are slow.
struct Place {
  int64_t row;
  int64_t column;
};
__device__ inline Place place_of(int64_t i, int64_t columns) {
  if (((i | columns) >> 32) != 0) return {i / columns, i % columns};
  const auto place = static_cast<uint32_t>(i), width = static_cast<uint32_t>(columns);
  return {place / width, place % width};
}

/// Whether a matrix can be read and written four elements at a time.
template <typename T>
bool takes_vectors(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % (kVector * sizeof(T)) == 0 && stride % kVector == 0;
}

}  // namespace deeptitan::cuda
