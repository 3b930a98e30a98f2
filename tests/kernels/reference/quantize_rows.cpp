#include <algorithm>
#include <cstdint>

#include "kernels/reference/quantization.h"
#include "kernels/reference/quantization_group.h"

namespace deeptitan::cpu {

namespace {

constexpr int64_t kParallelElements = 32768;

/// Quantises `rows` rows in groups; load(values, row, column, n) gives the n values of a group.
template <typename Load>
void quantize_row_groups(float8_e4m3* q, float* scale, int64_t rows, int64_t columns, const QuantizeOptions& options,
                         const Load& load) {
  const int64_t groups = quantization_groups(columns);
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements)
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * kQuantizationGroup;
      const int64_t n = std::min<int64_t>(kQuantizationGroup, columns - begin);
      float values[kQuantizationGroup];
      load(values, r, begin, n);
      const GroupScale s = group_scale(finite_amax(values, n), options.kind);
      round_group(q + r * columns + begin, values, s.inverse, n);
      scale[scale_index(r, g, rows, groups, options.layout)] = s.scale;
    }
  }
}

}  // namespace

void quantize_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden,
                   const QuantizeOptions& options) {
  quantize_row_groups(q, scale, rows, hidden, options, [=](float* values, int64_t row, int64_t column, int64_t n) {
    load_group(values, x + row * hidden + column, n);
  });
}

void quantize_swiglu(float8_e4m3* q, float* scale, const GatedRows& x, int64_t rows, int64_t width,
                     const QuantizeOptions& options) {
  quantize_row_groups(q, scale, rows, width, options, [=](float* values, int64_t row, int64_t column, int64_t n) {
    load_gated_group(values, x.gate + row * x.ld + column, x.up + row * x.ld + column, n);
  });
}

void quantize_permuted_rows(float8_e4m3* q, float* scale, const bfloat16* x, const RowMap& map, int64_t hidden,
                            const QuantizeOptions& options) {
  quantize_row_groups(q, scale, map.rows, hidden, options, [=](float* values, int64_t row, int64_t column, int64_t n) {
    const int32_t slot = map.slot_of_row[row];
    if (slot < 0) {
      std::fill_n(values, n, 0.0f);
    } else {
      load_group(values, x + slot / map.top_k * hidden + column, n);
    }
  });
}

void quantize_whole_rows(float8_e4m3* q, float* scale, const bfloat16* x, int64_t rows, int64_t hidden,
                         ScaleKind kind) {
#pragma omp parallel for schedule(static) if (rows * hidden > kParallelElements)
  for (int64_t r = 0; r < rows; ++r) {
    float values[kQuantizationGroup];
    float amax = 0.0f;
    for (int64_t begin = 0; begin < hidden; begin += kQuantizationGroup) {
      const int64_t n = std::min<int64_t>(kQuantizationGroup, hidden - begin);
      load_group(values, x + r * hidden + begin, n);
      amax = std::max(amax, finite_amax(values, n));
    }
    const GroupScale s = group_scale(amax, kind);
    scale[r] = s.scale;
    for (int64_t begin = 0; begin < hidden; begin += kQuantizationGroup) {
      const int64_t n = std::min<int64_t>(kQuantizationGroup, hidden - begin);
      load_group(values, x + r * hidden + begin, n);
      round_group(q + r * hidden + begin, values, s.inverse, n);
    }
  }
}

namespace {

template <typename T>
void dequantize_rows_of(T* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                        ScaleLayout layout) {
  const int64_t groups = quantization_groups(hidden);
#pragma omp parallel for schedule(static) if (rows * hidden > kParallelElements)
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = g * kQuantizationGroup;
      const int64_t n = std::min<int64_t>(kQuantizationGroup, hidden - begin);
      dequantize_group(out + r * hidden + begin, q + r * hidden + begin, scale[scale_index(r, g, rows, groups, layout)],
                       n);
    }
  }
}

}  // namespace

void dequantize_rows(bfloat16* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout) {
  dequantize_rows_of(out, q, scale, rows, hidden, layout);
}
void dequantize_rows(float* out, const float8_e4m3* q, const float* scale, int64_t rows, int64_t hidden,
                     ScaleLayout layout) {
  dequantize_rows_of(out, q, scale, rows, hidden, layout);
}

}  // namespace deeptitan::cpu
