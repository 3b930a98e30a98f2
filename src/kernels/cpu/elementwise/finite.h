#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

/// Whether no element of x [rows, columns], with `stride` elements between rows, is infinite or NaN.
bool rows_finite(const float* x, int64_t stride, int64_t rows, int64_t columns);
bool rows_finite(const bfloat16* x, int64_t stride, int64_t rows, int64_t columns);

}  // namespace deeptitan::cpu
