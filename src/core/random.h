#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/bfloat16.h"

// Random numbers are a function of what they are for and of an index, never of a thread, a rank or the order of
// calls: element i of the stream `key` is the same wherever and whenever it is asked for. The generator is
// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Everything here
// is integer arithmetic or IEEE add, multiply, divide and square root, so host and device give the same bits where
// contraction into fused multiply-add is off.

namespace deeptitan {

/// Four 32-bit words: a counter going in, random bits coming out.
struct Philox4x32 {
  uint32_t word[4];
};

/// Ten rounds of Philox over `counter` with the key (low word first).
DT_HOST_DEVICE inline Philox4x32 philox4x32_10(Philox4x32 counter, uint64_t key) {
  uint32_t key_low = static_cast<uint32_t>(key);
  uint32_t key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product_0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product_1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(product_1 >> 32) ^ counter.word[1] ^ key_low, static_cast<uint32_t>(product_1),
                static_cast<uint32_t>(product_0 >> 32) ^ counter.word[3] ^ key_high, static_cast<uint32_t>(product_0)}};
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  return counter;
}

/// The finalizer of splitmix64: a bijection of 64 bits in which every input bit reaches every output bit.
DT_HOST_DEVICE constexpr uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// The key of the stream for `purpose` (such as a parameter's name or "data/shuffle") in a run with `seed`.
constexpr uint64_t random_key(std::string_view purpose, uint64_t seed) {
  uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : purpose) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return mix_bits(hash + 0x9E3779B97F4A7C15u * mix_bits(seed + 0x9E3779B97F4A7C15u));
}

/// Four words for block `block` of the stream `key`.
DT_HOST_DEVICE inline Philox4x32 random_block(uint64_t key, uint64_t block) {
  return philox4x32_10({{static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}}, key);
}

/// 32 uniform bits: element `index` of the stream `key`. Elements 4b .. 4b+3 are the words of block b.
DT_HOST_DEVICE inline uint32_t random_bits(uint64_t key, uint64_t index) {
  return random_block(key, index / 4).word[index % 4];
}

/// 64 uniform bits: elements 2*index and 2*index + 1 of the stream `key`, low word first.
DT_HOST_DEVICE inline uint64_t random_bits_64(uint64_t key, uint64_t index) {
  const Philox4x32 block = random_block(key, index / 2);
  const uint64_t half = 2 * (index % 2);
  return block.word[half] | (uint64_t{block.word[half + 1]} << 32);
}

/// Uniform in [0, 1), a multiple of 2^-24: element `index` of the stream `key`.
DT_HOST_DEVICE inline float random_uniform(uint64_t key, uint64_t index) {
  return static_cast<float>(random_bits(key, index) >> 8) * 0x1p-24f;
}

namespace random_detail {

/// ln(x) for a positive normal x, to about 1e-12: x = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2
/// atanh((m-1)/(m+1)).
DT_HOST_DEVICE inline double log_of(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  bits = (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
  double m;
  memcpy(&m, &bits, sizeof m);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    exponent += 1;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  const double series =
      1.0 + z * (1.0 / 3 + z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z * (1.0 / 11 + z * (1.0 / 13))))));
  return exponent * 0.6931471805599453 + 2.0 * s * series;
}

/// cos(2 pi turns) and sin(2 pi turns) for turns in [0, 1), to about 1e-11.
DT_HOST_DEVICE inline void cos_sin_of(double turns, double* cosine, double* sine) {
  // The nearest quarter turn, 0 to 4: turns is not negative.
  const int quadrant = static_cast<int>(turns * 4.0 + 0.5);  // NOLINT(bugprone-incorrect-roundings)
  const double x = (turns - quadrant * 0.25) * 6.283185307179586;
  const double z = x * x;
  const double s = x * (1.0 - z / 6 * (1.0 - z / 20 * (1.0 - z / 42 * (1.0 - z / 72 * (1.0 - z / 110)))));
  const double c = 1.0 - z / 2 * (1.0 - z / 12 * (1.0 - z / 30 * (1.0 - z / 56 * (1.0 - z / 90 * (1.0 - z / 132)))));
  switch (quadrant % 4) {
    case 0:
      *cosine = c, *sine = s;
      break;
    case 1:
      *cosine = -s, *sine = c;
      break;
    case 2:
      *cosine = -c, *sine = -s;
      break;
    default:
      *cosine = s, *sine = -c;
      break;
  }
}

/// Two independent standard normals from two words (Box and Muller, 1958).
DT_HOST_DEVICE inline void normal_pair(uint32_t radius_bits, uint32_t angle_bits, float* first, float* second) {
  const double radius = std::sqrt(-2.0 * log_of((radius_bits + 0.5) * 0x1p-32));
  double cosine, sine;
  cos_sin_of(angle_bits * 0x1p-32, &cosine, &sine);
  *first = static_cast<float>(radius * cosine);
  *second = static_cast<float>(radius * sine);
}

}  // namespace random_detail

/// Standard normal: element `index` of the stream `key`. Its magnitude is at most 6.8.
DT_HOST_DEVICE inline float random_normal(uint64_t key, uint64_t index) {
  const Philox4x32 block = random_block(key, index / 4);
  const uint64_t pair = index % 4 / 2;
  float values[2];
  random_detail::normal_pair(block.word[2 * pair], block.word[2 * pair + 1], &values[0], &values[1]);
  return values[index % 2];
}

/// out[i] = stddev * random_normal(key, first + i) for i in [0, n): initialises a parameter, or rows of one that begin
/// at element `first`. Threads share the work and do not change the result.
void fill_normal(float* out, size_t n, uint64_t key, float stddev, uint64_t first = 0);

}  // namespace deeptitan
