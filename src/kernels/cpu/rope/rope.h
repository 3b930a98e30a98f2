#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

/// Which elements of a head are rotated together: 2i and 2i + 1, as in DeepSeek's own code, or i and i + dim / 2.
enum class RopePairs { kNeighbours, kHalves };

/// Rotary position embedding in place (Su et al. 2021, arXiv:2104.09864): with p = positions[r], c = cos[p, i],
/// s = sin[p, i], and a, b the elements of pair i,
///   (x[a], x[b]) <- (x[a] c - x[b] s, x[a] s + x[b] c),
/// written back in the same places. `inverse` rotates by the negative angle: the transpose, that is, the backward.
/// Element i of head h of row r lies at x[r * row_stride + h * head_stride + i]; dim (even) is the rotated width, so
/// that x may point at the rotated part of wider heads. cos and sin are [number of positions, dim / 2];
/// positions is [rows]; a row at a negative position, padding, is left as it is. Strides are in elements.
/// Deterministic.
void rope_rotate(float* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse,
                 RopePairs pairs = RopePairs::kNeighbours);
void rope_rotate(bfloat16* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse,
                 RopePairs pairs = RopePairs::kNeighbours);

}  // namespace deeptitan::cpu
