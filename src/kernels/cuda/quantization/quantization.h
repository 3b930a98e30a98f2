#pragma once

// bf16 and fp32 to fp8 e4m3 with scales, and back, on the GPU; tests/kernels/reference/quantization.h says what each
// function computes, and these give the same bits (a NaN's payload apart). All pointers are device pointers. Each is
// one launch; deterministic; nothing is allocated, waited for or read back, so all can be captured in a graph. Rows
// whose length is a multiple of 8 and that start at 16 bytes are read and written 16 bytes at a time, others element by
// element.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/quantization.h"
#include "kernels/row_map.h"

namespace deeptitan::cuda {

void quantize_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden,
                   const QuantizeOptions& options, cudaStream_t stream);

void quantize_swiglu(float8_e4m3* q, float* scale, const GatedRows& x, int64_t rows, int64_t width,
                     const QuantizeOptions& options, cudaStream_t stream);

/// Bytes of device workspace that quantize_permuted_rows needs; its contents need not be set.
size_t quantize_permuted_rows_workspace_bytes(int64_t tokens, int64_t hidden, const QuantizeOptions& options);

/// Each token is read and rounded once and written to its K rows. Column-major scales take a second launch.
void quantize_permuted_rows(float8_e4m3* q, float* scale, const bfloat16* x, const RowMap& map, int64_t hidden,
                            const QuantizeOptions& options, void* workspace, cudaStream_t stream);

void quantize_whole_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden, ScaleKind kind,
                         cudaStream_t stream);

void quantize_blocks(float8_e4m3* q, float* scale, const bfloat16* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind, cudaStream_t stream);
void quantize_blocks(float8_e4m3* q, float* scale, const float* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind, cudaStream_t stream);

void dequantize_rows(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout, cudaStream_t stream);
void dequantize_rows(float* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout, cudaStream_t stream);

void dequantize_blocks(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns, cudaStream_t stream);
void dequantize_blocks(float* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns, cudaStream_t stream);

}  // namespace deeptitan::cuda
