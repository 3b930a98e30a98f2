#pragma once

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cpu {

// Operations element by element. Arithmetic is float, rounded once to the element type.

/// out = a + b, all [n]. out may be a or b.
void add(float* out, const float* a, const float* b, int64_t n);
void add(bfloat16* out, const bfloat16* a, const bfloat16* b, int64_t n);

/// a += b, both [n].
void accumulate(float* a, const float* b, int64_t n);
void accumulate(bfloat16* a, const bfloat16* b, int64_t n);

/// sum += x, both [n], the sum in float.
void add_to_float(float* sum, const float* x, int64_t n);
void add_to_float(float* sum, const bfloat16* x, int64_t n);

/// out = in, [rows, columns], with ld_* elements between rows; rounded to the nearest, ties to even.
void convert(bfloat16* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns);
void convert(float* out, int64_t ld_out, const bfloat16* in, int64_t ld_in, int64_t rows, int64_t columns);

/// out = in, both [n].
void convert(bfloat16* out, const float* in, int64_t n);
void convert(float* out, const bfloat16* in, int64_t n);

/// x *= factor, [n].
void scale(float* x, float factor, int64_t n);
void scale(bfloat16* x, float factor, int64_t n);

/// x = 0, [n].
void fill_zero(float* x, int64_t n);
void fill_zero(bfloat16* x, int64_t n);

/// out = in, [rows, columns] of any element type, `row_bytes` each, with ld_* bytes between rows.
void copy_rows(void* out, int64_t ld_out, const void* in, int64_t ld_in, int64_t rows, int64_t row_bytes);

}  // namespace deeptitan::cpu
