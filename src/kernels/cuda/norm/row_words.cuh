#pragma once

// A row in the registers of one block, 16 bytes a word, so that each element is read once.

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/block.cuh"

namespace deeptitan::cuda {

/// The elements of a word.
template <typename T>
inline constexpr int kWordElements = 16 / static_cast<int>(sizeof(T));

__device__ inline void unpack_word(float (&values)[4], const uint4& word) {
  values[0] = __uint_as_float(word.x);
  values[1] = __uint_as_float(word.y);
  values[2] = __uint_as_float(word.z);
  values[3] = __uint_as_float(word.w);
}
__device__ inline void unpack_word(float (&values)[8], const uint4& word) {
  const uint32_t pairs[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(pairs[i] << 16);
    values[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}
__device__ inline uint4 pack_word(const float (&values)[4]) {
  return {__float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]),
          __float_as_uint(values[3])};
}
__device__ inline uint4 pack_word(const float (&values)[8]) {
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    pairs[i] = to_bfloat16(values[2 * i]).bits | static_cast<uint32_t>(to_bfloat16(values[2 * i + 1]).bits) << 16;
  }
  return {pairs[0], pairs[1], pairs[2], pairs[3]};
}

/// The words of a row of `words` words that this thread of kThreads has: w * kThreads + its number; zero beyond.
template <int kThreads, int kWords, typename T>
__device__ void load_words(uint4 (&word)[kWords], const T* row, int words) {
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int i = w * kThreads + static_cast<int>(threadIdx.x);
    word[w] = i < words ? reinterpret_cast<const uint4*>(row)[i] : uint4{0, 0, 0, 0};
  }
}

/// The values of a vector in fp32 that belong to word i of a row.
template <int kCount>
__device__ void load_weights(float (&values)[kCount], const float* weight, int i) {
#pragma unroll
  for (int part = 0; part < kCount / 4; ++part) {
    const float4 four = reinterpret_cast<const float4*>(weight)[i * (kCount / 4) + part];
    values[4 * part] = four.x;
    values[4 * part + 1] = four.y;
    values[4 * part + 2] = four.z;
    values[4 * part + 3] = four.w;
  }
}

/// Whether rows of this stride can be read as words.
template <typename T>
bool takes_words(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kWordElements<T> == 0;
}

/// body(threads a row, words a thread), both std::integral_constant, for rows of `words` words: as few words a thread
/// as keep enough on their way, which depends on the row's length alone. False where a row is too long.
template <typename Body>
bool for_row_shape(int64_t words, const Body& body) {
  if (words <= 32) return body(std::integral_constant<int, 32>(), std::integral_constant<int, 1>()), true;
  if (words <= 64) return body(std::integral_constant<int, 32>(), std::integral_constant<int, 2>()), true;
  if (words <= 128) return body(std::integral_constant<int, 64>(), std::integral_constant<int, 2>()), true;
  if (words <= 256) return body(std::integral_constant<int, 128>(), std::integral_constant<int, 2>()), true;
  if (words <= 512) return body(std::integral_constant<int, 256>(), std::integral_constant<int, 2>()), true;
  if (words <= 1024) return body(std::integral_constant<int, 256>(), std::integral_constant<int, 4>()), true;
  return false;
}

}  // namespace deeptitan::cuda
