#pragma once

// What the samplers of CPU and GPU must agree on to the bit: a token's weight as an integer, so that sums of weights
// are the same in any order.

#include <cstdint>
#include <cstring>

#include "core/bfloat16.h"

namespace deeptitan {

/// The likeliest token's weight is 2^44; the weights of 2^19 tokens sum to less than 2^64.
inline constexpr int kSamplingBits = 44;

DT_HOST_DEVICE inline double sampling_fma(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

/// e^x * 2^44 rounded to the nearest integer, up to one part in 2^52, for x <= 0 (x is a logit over the temperature
/// minus the largest such): by e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r by its series. Every operation is one
/// rounding.
DT_HOST_DEVICE inline uint64_t sampling_weight(double x) {
  if (!(x > -32.0)) return 0;  // e^-32 < 2^-45
  const double shifted = sampling_fma(x, 1.4426950408889634, 0.5);
  int n = static_cast<int>(shifted);
  if (static_cast<double>(n) > shifted) --n;
  const double whole = -static_cast<double>(n);
  double r = sampling_fma(whole, 0x1.62e42fefa39efp-1, x);  // the upper 53 bits of ln(2)
  r = sampling_fma(whole, 0x1.abc9e3b39803fp-56, r);        // the next 53
  constexpr double kInverseFactorials[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  double sum = 0;
  for (const double term : kInverseFactorials) sum = sampling_fma(sum, r, term);
  const uint64_t power_bits = static_cast<uint64_t>(1023 + kSamplingBits + n) << 52;  // 2^(44 + n)
  double power;
  memcpy(&power, &power_bits, sizeof power);
  return static_cast<uint64_t>(sampling_fma(sum, power, 0.5));
}

/// Which of `total` places 64 uniform bits mean: floor(bits * total / 2^64). The token drawn is the first whose weight,
/// added to those before it, exceeds that.
DT_HOST_DEVICE inline uint64_t sampling_place(uint64_t bits, uint64_t total) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(bits, total);
#else
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((static_cast<Wide>(bits) * total) >> 64);
#endif
}

}  // namespace deeptitan
