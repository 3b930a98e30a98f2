#pragma once

// Plain grouped products in double, and operands for them: values that are exact in the stored type, so that what
// separates a kernel from the reference is its own accumulation and rounding.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "core/bfloat16.h"
#include "core/float8.h"
#include "core/random.h"
#include "kernels/grouped_gemm_options.h"

namespace deeptitan {

/// Where each group's rows lie.
struct RowGroups {
  std::vector<int32_t> offsets, sizes;
  int64_t rows = 0;  // of the buffers
};

/// Groups one after the other, each beginning at a multiple of `alignment` past `first`, and `spare` rows at the end.
inline RowGroups make_groups(const std::vector<int32_t>& sizes, int alignment = 1, int first = 0, int spare = 0) {
  RowGroups groups;
  groups.sizes = sizes;
  int32_t next = first;
  for (const int32_t size : sizes) {
    groups.offsets.push_back(next);
    next += (size + alignment - 1) / alignment * alignment;
  }
  groups.rows = next + spare;
  return groups;
}

/// A matrix or stack of matrices [outer, width] as stored for a strategy, and the values it stands for.
struct StoredOperand {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  std::vector<float> values;
};

inline std::vector<float> random_values(int64_t count, uint64_t key) {
  std::vector<float> values(count);
  fill_normal(values.data(), values.size(), key, 1.0f);
  return values;
}

/// Stores values as bf16 and rounds them to it.
inline StoredOperand store_bf16(std::vector<float> values) {
  StoredOperand stored;
  stored.bytes.resize(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const bfloat16 rounded = to_bfloat16(values[i]);
    memcpy(stored.bytes.data() + 2 * i, &rounded, 2);
    values[i] = to_float(rounded);
  }
  stored.values = std::move(values);
  return stored;
}

/// Stores `matrices` x [height, width] as e4m3 with one fp32 scale a block of block_height x block_width; the scale of
/// block (i, j) of matrix m is scales[scale_index(m, i, j)], of scale_count.
template <typename ScaleIndex>
StoredOperand store_fp8(std::vector<float> values, int64_t matrices, int64_t height, int64_t width,
                        int64_t block_height, int64_t block_width, int64_t scale_count, ScaleIndex scale_index) {
  StoredOperand stored;
  stored.bytes.resize(values.size());
  stored.scales.assign(scale_count, std::numeric_limits<float>::quiet_NaN());
  for (int64_t m = 0; m < matrices; ++m) {
    for (int64_t top = 0; top < height; top += block_height) {
      for (int64_t left = 0; left < width; left += block_width) {
        const int64_t bottom = std::min(height, top + block_height), right = std::min(width, left + block_width);
        float largest = 1e-4f;
        for (int64_t row = top; row < bottom; ++row) {
          for (int64_t column = left; column < right; ++column) {
            largest = std::max(largest, std::fabs(values[(m * height + row) * width + column]));
          }
        }
        const float scale = largest / kFloat8E4M3Max;
        stored.scales[scale_index(m, top / block_height, left / block_width)] = scale;
        for (int64_t row = top; row < bottom; ++row) {
          for (int64_t column = left; column < right; ++column) {
            const int64_t i = (m * height + row) * width + column;
            const float8_e4m3 rounded = to_float8_e4m3(values[i] / scale);
            stored.bytes[i] = rounded.bits;
            values[i] = to_float(rounded) * scale;
          }
        }
      }
    }
  }
  stored.values = std::move(values);
  return stored;
}

/// Activations [rows, width] for a strategy.
inline StoredOperand store_activations(GroupedGemmStrategy strategy, std::vector<float> values, int64_t rows,
                                       int64_t width) {
  if (!is_fp8(strategy)) return store_bf16(std::move(values));
  if (strategy == GroupedGemmStrategy::kFp8Rowwise) {
    return store_fp8(std::move(values), 1, rows, width, 1, width, rows,
                     [](int64_t, int64_t row, int64_t) { return row; });
  }
  const int64_t stride = (rows + 3) / 4 * 4;
  return store_fp8(std::move(values), 1, rows, width, 1, 128, (width + 127) / 128 * stride,
                   [stride](int64_t, int64_t row, int64_t block) { return block * stride + row; });
}

/// Weights [groups, height, width] for a strategy.
inline StoredOperand store_weights(GroupedGemmStrategy strategy, std::vector<float> values, int64_t groups,
                                   int64_t height, int64_t width) {
  if (!is_fp8(strategy)) return store_bf16(std::move(values));
  if (strategy == GroupedGemmStrategy::kFp8Rowwise) {
    return store_fp8(std::move(values), groups, height, width, 1, width, groups * height,
                     [height](int64_t group, int64_t row, int64_t) { return group * height + row; });
  }
  const int64_t down = (height + 127) / 128, across = (width + 127) / 128;
  return store_fp8(std::move(values), groups, height, width, 128, 128, groups * down * across,
                   [down, across](int64_t group, int64_t i, int64_t j) { return (group * down + i) * across + j; });
}

/// Stores NaN in the rows of `stored` [rows, width] that no group holds: they must not reach any result.
inline void poison_rows_outside(const RowGroups& groups, int64_t width, StoredOperand* stored) {
  std::vector<bool> inside(groups.rows, false);
  for (size_t g = 0; g < groups.sizes.size(); ++g) {
    std::fill_n(inside.begin() + groups.offsets[g], groups.sizes[g], true);
  }
  const int64_t row_bytes = static_cast<int64_t>(stored->bytes.size()) / std::max<int64_t>(groups.rows, 1);
  for (int64_t row = 0; row < groups.rows; ++row) {
    if (inside[row]) continue;
    std::fill_n(stored->bytes.begin() + row * row_bytes, row_bytes, 0xff);  // NaN in both types
    std::fill_n(stored->values.begin() + row * width, width, std::numeric_limits<float>::quiet_NaN());
  }
}

/// output [rows, height] = a [rows, width] x b[g]^T, b [groups, height, width]; rows outside every group are NaN.
inline std::vector<double> reference_product(const RowGroups& groups, const std::vector<float>& a,
                                             const std::vector<float>& b, int64_t height, int64_t width) {
  std::vector<double> output(groups.rows * height, std::numeric_limits<double>::quiet_NaN());
  for (size_t g = 0; g < groups.sizes.size(); ++g) {
#pragma omp parallel for
    for (int64_t row = groups.offsets[g]; row < groups.offsets[g] + groups.sizes[g]; ++row) {
      for (int64_t column = 0; column < height; ++column) {
        const float* left = a.data() + row * width;
        const float* right = b.data() + (static_cast<int64_t>(g) * height + column) * width;
        double sum = 0.0;
        for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(left[i]) * right[i];
        output[row * height + column] = sum;
      }
    }
  }
  return output;
}

/// output [groups, n, k] += dy[rows of g]^T x[rows of g], dy [rows, n], x [rows, k].
inline void reference_weight_gradient(const RowGroups& groups, const std::vector<float>& dy,
                                      const std::vector<float>& x, int64_t n, int64_t k, std::vector<double>* output) {
  for (size_t g = 0; g < groups.sizes.size(); ++g) {
#pragma omp parallel for
    for (int64_t i = 0; i < n; ++i) {
      double* row = output->data() + (static_cast<int64_t>(g) * n + i) * k;
      for (int64_t t = groups.offsets[g]; t < groups.offsets[g] + groups.sizes[g]; ++t) {
        const double left = dy[t * n + i];
        for (int64_t j = 0; j < k; ++j) row[j] += left * x[t * k + j];
      }
    }
  }
}

/// ||a - b|| / ||b|| over the elements where b is not NaN.
template <typename A>
double relative_error(const std::vector<A>& a, const std::vector<double>& b) {
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (std::isnan(b[i])) continue;
    const double error = static_cast<double>(to_float(a[i])) - b[i];
    difference += error * error;
    norm += b[i] * b[i];
  }
  return norm == 0.0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

}  // namespace deeptitan
