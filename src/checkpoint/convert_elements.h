#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace deeptitan {

/// Rows and columns of a block that shares one scale in DeepSeek-V3's fp8 weights.
inline constexpr int64_t kFloat8BlockSize = 128;

/// Converts `count` elements of `from` (f16, bf16, f32, f64, f8_e4m3 or the same as `to`) at `source` to `to` (f32,
/// bf16 or, without scaling, f8_e4m3) at `destination`, each rounded to nearest, ties to even (f64 through f32).
/// `source` need not be aligned; the two must not overlap. Runs on all OpenMP threads. Throws Error for other dtypes.
void convert_elements(const void* source, DType from, void* destination, DType to, int64_t count);

/// weights[r, c] = values[r, c] * scale_inv[r / 128, c / 128], rounded to `to` (f32 or bf16).
///   values    [rows, columns] e4m3, row-major
///   scale_inv [ceil(rows / 128), ceil(columns / 128)] f32, row-major
/// Blocks at the right and bottom edges may be smaller. Inputs need not be aligned.
/// Format: DeepSeek-V3 README_WEIGHTS.md, section FP8 Weight Documentation.
void dequantize_float8_blocks(const void* values, const void* scale_inv, int64_t rows, int64_t columns, void* weights,
                              DType to);

/// The inverse: for each 128x128 block scale_inv = max |weights| / 448 (1 for a block of zeros) and
/// values = e4m3(weights / scale_inv), where weights [rows, columns] are f32 or bf16; shapes as above. An infinite or
/// NaN weight makes its block's scale infinite or NaN, never a number that looks right.
void quantize_float8_blocks(const void* weights, DType from, int64_t rows, int64_t columns, uint8_t* values,
                            float* scale_inv);

/// The place of the first of `count` elements (f32 or bf16, not necessarily aligned) that is NaN or infinite; -1 where
/// all are finite. Runs on all OpenMP threads. Throws Error for other dtypes.
int64_t first_not_finite(const void* elements, DType dtype, int64_t count);

}  // namespace deeptitan
