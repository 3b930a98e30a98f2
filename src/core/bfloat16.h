#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define DT_HOST_DEVICE __host__ __device__
#else
#define DT_HOST_DEVICE
#endif

namespace deeptitan {

/// bfloat16 as stored: the upper half of an IEEE binary32. Arithmetic is done in float.
struct bfloat16 {
  uint16_t bits;
};

/// The exact float value of x.
DT_HOST_DEVICE inline float to_float(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
DT_HOST_DEVICE inline float to_float(float x) {
  return x;
}

/// x rounded to the nearest bfloat16, ties to even; a NaN stays a (quiet) NaN.
DT_HOST_DEVICE inline bfloat16 to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

}  // namespace deeptitan
