#pragma once

// Arithmetic that decides something: one source for host and device, with the same bits on both. Every operation is an
// IEEE 754 binary32 operation rounded to nearest, so no compiler may contract, reassociate or approximate it: on the
// device the intrinsics forbid it, on the host -ffp-contract=off does. exact_fma is one rounding; hosts without a fused
// multiply-add instruction get it from the C library, slower and with the same bits.

#include <cstdint>
#include <cstring>

#include "core/bfloat16.h"

namespace deeptitan {

DT_HOST_DEVICE inline float exact_add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

DT_HOST_DEVICE inline float exact_mul(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

/// a * b + c, rounded once.
DT_HOST_DEVICE inline float exact_fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

DT_HOST_DEVICE inline float exact_div(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

DT_HOST_DEVICE inline float exact_reciprocal(float a) {
#if defined(__CUDA_ARCH__)
  return __frcp_rn(a);
#else
  return 1.0f / a;
#endif
}

DT_HOST_DEVICE inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

DT_HOST_DEVICE inline float float_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// 1 / x for 1 <= x < 2^124, rounded to nearest; NaN for NaN. The device's approximation and one step of Newton's
/// method: what __frcp_rn does where its argument needs no special care, without asking whether it does.
DT_HOST_DEVICE inline float exact_reciprocal_of_normal(float x) {
#if defined(__CUDA_ARCH__)
  float approximation;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(approximation) : "f"(x));
  const float error = __fmaf_rn(x, approximation, -1.0f);
  return __fmaf_rn(approximation, -error, approximation);
#else
  return 1.0f / x;
#endif
}

/// exp(x) as two factors, polynomial * power, for -126 ln 2 < x < 127 ln 2; the product is within 1 ulp.
/// x = n ln 2 + r with |r| <= ln 2 / 2; power = 2^n; polynomial(r) is a minimax polynomial of degree 6 (relative error
/// 3.3e-9).
struct ExpFactors {
  float polynomial;
  float power;
};
DT_HOST_DEVICE inline ExpFactors exact_exp_factors(float x) {
  constexpr float kLog2E = 0x1.715476p+0f;
  constexpr float kLn2High = 0x1.62e43p-1f;  // ln 2 in two parts
  constexpr float kLn2Low = -0x1.05c61p-29f;
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, which the low mantissa bits then hold
  const float shifted = exact_fma(x, kLog2E, kRound);
  const float n = exact_add(shifted, -kRound);
  const float r = exact_fma(n, -kLn2Low, exact_fma(n, -kLn2High, x));
  float p = 0x1.6a1a72p-10f;
  p = exact_fma(p, r, 0x1.123fc6p-7f);
  p = exact_fma(p, r, 0x1.555916p-5f);
  p = exact_fma(p, r, 0x1.55548ap-3f);
  p = exact_fma(p, r, 0x1.fffffcp-2f);
  p = exact_fma(p, r, 1.0f);
  p = exact_fma(p, r, 1.0f);
  return {p, float_from_bits((float_bits(shifted) << 23) + 0x3f800000u)};
}

/// exp(x) for x <= 0, within 1 ulp; 0 below -87, where the result nears the subnormal numbers; NaN for NaN.
DT_HOST_DEVICE inline float exact_exp_of_nonpositive(float x) {
  const ExpFactors e = exact_exp_factors(x);
  return x < -87.0f ? 0.0f : exact_mul(e.polynomial, e.power);
}

/// The x of -86 .. 86 nearest to x; NaN for NaN.
DT_HOST_DEVICE inline float clamp_to_exp_range(float x) {
  constexpr float kBound = 86.0f;
#if defined(__CUDA_ARCH__)
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(-kBound));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(x) : "f"(kBound));
  return x;
#else
  x = x < -kBound ? -kBound : x;
  return x > kBound ? kBound : x;
#endif
}

/// 1 / (1 + exp(-x)), within 2 ulp for -86 <= x <= 86 and constant beyond (4.5e-38 and 1); NaN for NaN.
DT_HOST_DEVICE inline float exact_sigmoid(float x) {
  const ExpFactors e = exact_exp_factors(-clamp_to_exp_range(x));
  return exact_reciprocal_of_normal(exact_fma(e.polynomial, e.power, 1.0f));
}

}  // namespace deeptitan
