#pragma once

// Operations element by element on the GPU; kernels/cpu/elementwise/elementwise.h says what each computes, and these
// give the same bits. All pointers are device pointers. Deterministic; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// out = a + b, all [n]. out may be a or b.
void add(float* out, const float* a, const float* b, int64_t n, cudaStream_t stream);
void add(bfloat16* out, const bfloat16* a, const bfloat16* b, int64_t n, cudaStream_t stream);

/// out += x, [rows, columns], with ld_* elements between rows.
void add_rows(bfloat16* out, int64_t ld_out, const bfloat16* x, int64_t ld_x, int64_t rows, int64_t columns,
              cudaStream_t stream);

/// out = in, [rows, columns], with ld_* elements between rows; rounded to the nearest, ties to even.
void convert(bfloat16* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream);
void convert(float* out, int64_t ld_out, const bfloat16* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream);
/// The same without a change of type: a copy between strides.
void convert(float* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream);
void convert(bfloat16* out, int64_t ld_out, const bfloat16* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream);

/// *not_finite = 1 where an element of x [rows, columns] (ld elements from row to row) is infinite or NaN, else it is
/// left as it is.
void find_not_finite(int32_t* not_finite, const float* x, int64_t ld, int64_t rows, int64_t columns,
                     cudaStream_t stream);
void find_not_finite(int32_t* not_finite, const bfloat16* x, int64_t ld, int64_t rows, int64_t columns,
                     cudaStream_t stream);

}  // namespace deeptitan::cuda
