#pragma once

// bf16 and fp32 to fp8 e4m3 with scales, and back. A value becomes e4m3(x * (448 / amax)), rounded to nearest even,
// amax the largest finite magnitude of its group; with power-of-two scales e4m3(x / scale). What is not finite in the
// input becomes NaN (0x7f; e4m3 has no infinity) in its own place, and its neighbours keep their scale. The same bits
// as on the GPU. Everything is deterministic and independent of the number of threads.

#include <cstdint>

#include "kernels/quantization.h"
#include "kernels/row_map.h"

namespace deeptitan::cpu {

/// q [rows, D], scale (scale_count floats) from x [rows, D], in groups of 128 columns of a row.
void quantize_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden,
                   const QuantizeOptions& options);

/// As quantize_rows of silu(gate) * up, which stays in fp32: q [rows, width].
void quantize_swiglu(float8_e4m3* q, float* scale, const GatedRows& x, int64_t rows, int64_t width,
                     const QuantizeOptions& options);

/// As quantize_rows of permute_rows(x): q [map.rows, D], scale of map.rows rows, x [T, D]. Padding rows are those of
/// zeros.
void quantize_permuted_rows(float8_e4m3* q, float* scale, const bfloat16* x, const RowMap& map, int64_t hidden,
                            const QuantizeOptions& options);

/// One scale for each whole row: q [rows, D], scale [rows], x [rows, D].
void quantize_whole_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden, ScaleKind kind);

/// A stack of matrices in 128 x 128 blocks: q [matrices, rows, columns], scale [matrices, ceil(rows / 128),
/// ceil(columns / 128)] (row-major) from x [matrices, rows, columns]. Blocks do not cross matrices.
void quantize_blocks(float8_e4m3* q, float* scale, const bfloat16* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind);
void quantize_blocks(float8_e4m3* q, float* scale, const float* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind);

/// out = q * scale, the inverse of quantize_rows: out [rows, D].
void dequantize_rows(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout);
void dequantize_rows(float* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout);

/// out = q * scale, the inverse of quantize_blocks: out [matrices, rows, columns].
void dequantize_blocks(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns);
void dequantize_blocks(float* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns);

}  // namespace deeptitan::cpu
