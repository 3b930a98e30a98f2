#include "kernels/reference/quantization_group.h"

#include "kernels/cpu/vector_clones.h"

namespace deeptitan::cpu {

namespace {

/// to_float8_e4m3 without branches, so that loops over it vectorise.
inline uint8_t round_to_e4m3(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t carried = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - ((127u - 7u) << 3);
  const uint32_t normal = carried > 0x7eu ? 0x7eu : carried;
  // Adding 1.5 * 2^14 leaves multiples of 2^-9, rounded to even, in the low mantissa bits: up to 8, the smallest
  // normal.
  const uint32_t subnormal = float_bits(float_from_bits(magnitude) + 0x1.8p14f) & 0xffu;
  const uint32_t rounded = magnitude < 0x3c800000u ? subnormal : normal;
  const uint32_t code = rounded | ((bits >> 24) & 0x80u);
  return static_cast<uint8_t>(magnitude > 0x7f800000u ? 0x7fu : code);
}

/// to_float without branches.
inline float e4m3_value(uint8_t code) {
  const uint32_t magnitude = code & 0x7fu;
  // The code's bits as a float's are 2^-120 of the value, normal or not; 0x7f stands for NaN.
  const float value = float_from_bits(magnitude << 20) * 0x1p120f;
  const uint32_t bits = magnitude == 0x7fu ? 0x7fc00000u : float_bits(value);
  return float_from_bits(bits | (static_cast<uint32_t>(code & 0x80u) << 24));
}

}  // namespace

DT_VECTOR_CLONES void load_group(float* values, const bfloat16* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) values[i] = to_float(x[i]);
}

DT_VECTOR_CLONES void load_group(float* values, const float* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) values[i] = x[i];
}

DT_VECTOR_CLONES void load_gated_group(float* values, const bfloat16* gate, const bfloat16* up, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) values[i] = gated_value(to_float(gate[i]), to_float(up[i]));
}

DT_VECTOR_CLONES float finite_amax(const float* values, int64_t n) {
  uint32_t largest = 0;  // magnitudes order as their bits do
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = float_bits(values[i]) & 0x7fffffffu;
    const uint32_t finite = magnitude < 0x7f800000u ? magnitude : 0u;
    largest = finite > largest ? finite : largest;
  }
  return float_from_bits(largest);
}

DT_VECTOR_CLONES void round_group(float8_e4m3* q, const float* values, float inverse, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const bool finite = (float_bits(values[i]) & 0x7fffffffu) < 0x7f800000u;
    const uint8_t code = round_to_e4m3(values[i] * inverse);
    q[i].bits = finite ? code : static_cast<uint8_t>(0x7f);
  }
}

DT_VECTOR_CLONES void dequantize_group(float* out, const float8_e4m3* q, float scale, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = e4m3_value(q[i].bits) * scale;
}

DT_VECTOR_CLONES void dequantize_group(bfloat16* out, const float8_e4m3* q, float scale, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = to_bfloat16(e4m3_value(q[i].bits) * scale);
}

}  // namespace deeptitan::cpu
