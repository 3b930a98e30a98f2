#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

/// out[r, n] += bias[n]: out is [rows, columns] with `ld` elements from row to row.
void add_bias(float* out, int64_t ld, const float* bias, int64_t rows, int64_t columns);
void add_bias(bfloat16* out, int64_t ld, const float* bias, int64_t rows, int64_t columns);

/// d_bias[n] += sum over r of d_out[r, n], in the order of the rows whatever the threads; = without `accumulate`.
void add_bias_backward(float* d_bias, const float* d_out, int64_t ld, int64_t rows, int64_t columns,
                       bool accumulate = true);
void add_bias_backward(float* d_bias, const bfloat16* d_out, int64_t ld, int64_t rows, int64_t columns,
                       bool accumulate = true);

}  // namespace deeptitan::cpu
