#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define DT_HOST_DEVICE __host__ __device__
#elif !defined(DT_HOST_DEVICE)
#define DT_HOST_DEVICE
#endif

namespace deeptitan {

/// fp8 e4m3 as stored ("e4m3fn"): 1 sign, 4 exponent (bias 7) and 3 mantissa bits; no infinity, 0x7f and 0xff are
/// NaN, the largest value is 448, the smallest normal 2^-6, the smallest subnormal 2^-9 (OCP 8-bit Floating Point
/// Specification, revision 1.0, section 5).
struct float8_e4m3 {
  uint8_t bits;
};

/// The largest finite e4m3 value.
inline constexpr float kFloat8E4M3Max = 448.0f;

/// The exact float value of x.
DT_HOST_DEVICE inline float to_float(float8_e4m3 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x80u) << 24;
  const uint32_t magnitude = x.bits & 0x7fu;
  uint32_t bits;
  if (magnitude == 0x7fu) {
    bits = 0x7fc00000u;
  } else if (magnitude >= 8u) {
    bits = (magnitude << 20) + ((127u - 7u) << 23);
  } else {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-9f;
    memcpy(&bits, &subnormal, sizeof bits);
  }
  bits |= sign;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/// x rounded to the nearest e4m3 value, ties to even, and saturated: what lies beyond 448, infinity included, becomes
/// +-448; a NaN becomes 0x7f. The same bits as PTX cvt.rn.satfinite.e4m3x2.f32. Integer arithmetic only, so that host
/// and device agree whatever the compiler contracts or flushes to zero.
DT_HOST_DEVICE inline float8_e4m3 to_float8_e4m3(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {0x7f};

  uint32_t rounded;
  if (magnitude >= 0x3c800000u) {  // 2^-6 and above: keep three of the 23 mantissa bits; a carry raises the exponent
    rounded = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - ((127u - 7u) << 3);
    if (rounded > 0x7eu) rounded = 0x7eu;
  } else {  // multiples of 2^-9: the significand, 2^23 for 1.0, is shifted right by 21 at 2^-7 and one more each octave
    const uint32_t exponent = magnitude >> 23;
    const uint32_t shift = 141u - exponent;
    if (shift > 24u) return {static_cast<uint8_t>(sign)};  // below 2^-10, half of the smallest subnormal
    const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t half = 1u << (shift - 1u);
    rounded = significand >> shift;
    rounded = (significand + half - 1u + (rounded & 1u)) >> shift;
  }
  return {static_cast<uint8_t>(sign | rounded)};
}

}  // namespace deeptitan
