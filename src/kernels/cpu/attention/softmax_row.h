#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

/// e^x for x <= 0 (a softmax's argument), within 2 units in the last place; below -87 it is 0.
/// Branch-free, so that a loop over it is vectorised: 2^n times a polynomial of the remainder (Cody-Waite).
inline float exp_nonpositive(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float n = std::nearbyint(clamped * 1.44269504088896341f);
  float r = __builtin_fmaf(n, -0.693145751953125f, clamped);
  r = __builtin_fmaf(n, -1.42860677e-6f, r);
  float p = 1.9875691500e-4f;
  p = __builtin_fmaf(p, r, 1.3981999507e-3f);
  p = __builtin_fmaf(p, r, 8.3334519073e-3f);
  p = __builtin_fmaf(p, r, 4.1665795894e-2f);
  p = __builtin_fmaf(p, r, 1.6666665459e-1f);
  p = __builtin_fmaf(p, r, 5.0000001201e-1f);
  p = __builtin_fmaf(p * r, r, r + 1.0f);
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -87.0f ? 0.0f : p * power;
}

/// The largest of n > 0 values.
inline float row_max(const float* x, int64_t n) {
  float partial[16];
  for (int lane = 0; lane < 16; ++lane) partial[lane] = -INFINITY;
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
#pragma omp simd
    for (int lane = 0; lane < 16; ++lane) {
      const float value = x[i + lane];
      const float largest = partial[lane];
      partial[lane] = largest < value ? value : largest;
    }
  }
  for (; i < n; ++i) partial[0] = std::max(partial[0], x[i]);
  return *std::max_element(partial, partial + 16);
}

/// The argument of a softmax's exponential: rounding may lift it just above 0, and a NaN has to stay one.
inline float softmax_argument(float x, float scale, float shift) {
  const float argument = __builtin_fmaf(x, scale, -shift);
  return argument > 0.0f ? 0.0f : argument;
}

/// x[i] = e^(scale * x[i] - shift), and their sum in a fixed order.
inline float exponentiate_row(float* x, int64_t n, float scale, float shift) {
  float partial[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int lane = 0; lane < 16; ++lane) {
      x[i + lane] = exp_nonpositive(softmax_argument(x[i + lane], scale, shift));
      partial[lane] += x[i + lane];
    }
  }
  for (; i < n; ++i) {
    x[i] = exp_nonpositive(softmax_argument(x[i], scale, shift));
    partial[i % 16] += x[i];
  }
  float sum = 0;
  for (float lane : partial) sum += lane;
  return sum;
}

inline void store(float* out, float value) {
  *out = value;
}
inline void store(bfloat16* out, float value) {
  *out = to_bfloat16(value);
}

}  // namespace deeptitan::cpu
