#pragma once

// What the CPU's and the GPU's fp8 quantisation share. e4m3 values stand for q * scale, one scale for each group of 128
// consecutive columns of a row, or for each 128 x 128 block of a matrix; groups and blocks at the edges are smaller.

#include <cstdint>

#include "core/bfloat16.h"
#include "core/float8.h"
#include "kernels/exact_math.h"

namespace deeptitan {

inline constexpr int kQuantizationGroup = 128;

enum class ScaleKind {
  kFloat,       // amax / 448
  kPowerOfTwo,  // the least power of two that is not below amax / 448
};

/// Where the scale of row r and column group g lies. [groups] = ceil(columns / 128).
enum class ScaleLayout {
  kRowMajor,     // [rows, groups]: r * groups + g
  kColumnMajor,  // [groups, scale_stride(rows)]: g * scale_stride(rows) + r
};

struct QuantizeOptions {
  ScaleKind kind = ScaleKind::kFloat;
  ScaleLayout layout = ScaleLayout::kRowMajor;
};

/// The halves of a gated unit's first product, [rows, width] each, with ld elements between rows.
struct GatedRows {
  const bfloat16* gate = nullptr;
  const bfloat16* up = nullptr;
  int64_t ld = 0;
};

DT_HOST_DEVICE constexpr int64_t quantization_groups(int64_t columns) {
  return (columns + kQuantizationGroup - 1) / kQuantizationGroup;
}

/// Rows of a column of scales in column-major layout: padded so that each column starts at a multiple of 16 bytes. What
/// the padding holds is never written.
DT_HOST_DEVICE constexpr int64_t scale_stride(int64_t rows) {
  return (rows + 3) / 4 * 4;
}

/// Floats that the scales of [rows, columns] take.
DT_HOST_DEVICE constexpr int64_t scale_count(int64_t rows, int64_t columns, ScaleLayout layout) {
  return quantization_groups(columns) * (layout == ScaleLayout::kRowMajor ? rows : scale_stride(rows));
}

DT_HOST_DEVICE constexpr int64_t scale_index(int64_t row, int64_t group, int64_t rows, int64_t groups,
                                             ScaleLayout layout) {
  return layout == ScaleLayout::kRowMajor ? row * groups + group : group * scale_stride(rows) + row;
}

struct GroupScale {
  float scale;
  float inverse;  // what values are multiplied by before they are rounded to e4m3
};

/// The scale of a group whose largest finite magnitude is amax. Magnitudes below 2^-100 count as 2^-100, so that an
/// all-zero group has a normal scale and a finite inverse.
DT_HOST_DEVICE inline GroupScale group_scale(float amax, ScaleKind kind) {
  constexpr float kSmallest = 0x1p-100f;
  const float bounded = amax > kSmallest ? amax : kSmallest;
  const float scale = exact_div(bounded, kFloat8E4M3Max);
  if (kind == ScaleKind::kFloat) return {scale, exact_div(kFloat8E4M3Max, bounded)};
  const uint32_t exponent = (float_bits(scale) + 0x7fffffu) >> 23;  // rounded up, to 2^(exponent - 127)
  return {float_from_bits(exponent << 23), float_from_bits((254u - exponent) << 23)};
}

/// silu(gate) * up as the fused quantisation takes it, in fp32.
DT_HOST_DEVICE inline float gated_value(float gate, float up) {
  return exact_mul(exact_mul(gate, exact_sigmoid(gate)), up);
}

}  // namespace deeptitan
