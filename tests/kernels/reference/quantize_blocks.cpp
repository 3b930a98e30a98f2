#include <algorithm>
#include <cstdint>

#include "kernels/reference/quantization.h"
#include "kernels/reference/quantization_group.h"

namespace deeptitan::cpu {

namespace {

/// Calls visit(matrix, block, first row, row end, first column, column end) for every block, in parallel; `block`
/// counts them as the scales lie.
template <typename Visit>
void for_each_block(int64_t matrices, int64_t rows, int64_t columns, const Visit& visit) {
  const int64_t block_rows = quantization_groups(rows);
  const int64_t block_columns = quantization_groups(columns);
#pragma omp parallel for schedule(static)
  for (int64_t band = 0; band < matrices * block_rows; ++band) {
    const int64_t matrix = band / block_rows;
    const int64_t row = band % block_rows * kQuantizationGroup;
    for (int64_t g = 0; g < block_columns; ++g) {
      const int64_t column = g * kQuantizationGroup;
      visit(matrix, band * block_columns + g, row, std::min(rows, row + kQuantizationGroup), column,
            std::min(columns, column + kQuantizationGroup));
    }
  }
}

template <typename T>
void quantize_blocks_of(float8_e4m3* q, float* scale, const T* x, int64_t matrices, int64_t rows, int64_t columns,
                        ScaleKind kind) {
  for_each_block(matrices, rows, columns,
                 [=](int64_t matrix, int64_t block, int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
                   float values[kQuantizationGroup];
                   const int64_t n = column_end - column;
                   float amax = 0.0f;
                   for (int64_t r = row; r < row_end; ++r) {
                     load_group(values, x + (matrix * rows + r) * columns + column, n);
                     amax = std::max(amax, finite_amax(values, n));
                   }
                   const GroupScale s = group_scale(amax, kind);
                   scale[block] = s.scale;
                   for (int64_t r = row; r < row_end; ++r) {
                     const int64_t offset = (matrix * rows + r) * columns + column;
                     load_group(values, x + offset, n);
                     round_group(q + offset, values, s.inverse, n);
                   }
                 });
}

template <typename T>
void dequantize_blocks_of(T* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                          int64_t columns) {
  for_each_block(matrices, rows, columns,
                 [=](int64_t matrix, int64_t block, int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
                   for (int64_t r = row; r < row_end; ++r) {
                     const int64_t offset = (matrix * rows + r) * columns + column;
                     dequantize_group(out + offset, q + offset, scale[block], column_end - column);
                   }
                 });
}

}  // namespace

void quantize_blocks(float8_e4m3* q, float* scale, const bfloat16* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind) {
  quantize_blocks_of(q, scale, x, matrices, rows, columns, kind);
}
void quantize_blocks(float8_e4m3* q, float* scale, const float* x, int64_t matrices, int64_t rows, int64_t columns,
                     ScaleKind kind) {
  quantize_blocks_of(q, scale, x, matrices, rows, columns, kind);
}

void dequantize_blocks(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns) {
  dequantize_blocks_of(out, q, scale, matrices, rows, columns);
}
void dequantize_blocks(float* out, const float8_e4m3* q, const float* scale, int64_t matrices, int64_t rows,
                       int64_t columns) {
  dequantize_blocks_of(out, q, scale, matrices, rows, columns);
}

}  // namespace deeptitan::cpu
