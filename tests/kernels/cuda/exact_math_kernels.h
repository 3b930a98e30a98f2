#pragma once

#include <cstdint>

namespace deeptitan::cuda {

/// out[i] = the function of the float with bits first + i * step. Default stream; tests only.
void exp_of_nonpositive_of_bits(float* out, uint32_t first, uint32_t step, int64_t count);
void sigmoid_of_bits(float* out, uint32_t first, uint32_t step, int64_t count);

/// mismatches += how many mantissas m give exact_reciprocal_of_normal(x) != 1 / x for x = m * 2^exponent.
void count_reciprocal_mismatches(uint32_t* mismatches, int exponent);

}  // namespace deeptitan::cuda
