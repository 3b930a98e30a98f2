#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/permute/permute.h"
#include "kernels/cpu/vector_clones.h"
#include "kernels/exact_math.h"
#include "kernels/row_dot.h"

namespace deeptitan::cpu {

namespace {

// Each row function is one inline template; its two overloads compile it for the instruction sets.

template <typename T>
inline T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    return to_bfloat16(x);
  }
}

template <typename T>
[[gnu::always_inline]] inline void add_weighted_row_inline(float* sum, const T* y, float weight, int64_t n) {
#pragma omp simd
  for (int64_t d = 0; d < n; ++d) sum[d] = exact_fma(weight, to_float(y[d]), sum[d]);
}
DT_VECTOR_CLONES void add_weighted_row(float* sum, const float* y, float weight, int64_t n) {
  add_weighted_row_inline(sum, y, weight, n);
}
DT_VECTOR_CLONES void add_weighted_row(float* sum, const bfloat16* y, float weight, int64_t n) {
  add_weighted_row_inline(sum, y, weight, n);
}

template <typename T>
[[gnu::always_inline]] inline void store_sum_inline(T* out, const float* sum, const T* addend, int64_t n) {
  if (addend == nullptr) {
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) out[d] = from_float<T>(sum[d]);
  } else {
#pragma omp simd
    for (int64_t d = 0; d < n; ++d) out[d] = from_float<T>(sum[d] + to_float(addend[d]));
  }
}
DT_VECTOR_CLONES void store_sum(float* out, const float* sum, const float* addend, int64_t n) {
  store_sum_inline(out, sum, addend, n);
}
DT_VECTOR_CLONES void store_sum(bfloat16* out, const float* sum, const bfloat16* addend, int64_t n) {
  store_sum_inline(out, sum, addend, n);
}

template <typename T>
[[gnu::always_inline]] inline void scale_row_inline(T* out, const T* x, float weight, int64_t n) {
#pragma omp simd
  for (int64_t d = 0; d < n; ++d) out[d] = from_float<T>(weight * to_float(x[d]));
}
DT_VECTOR_CLONES void scale_row(float* out, const float* x, float weight, int64_t n) {
  scale_row_inline(out, x, weight, n);
}
DT_VECTOR_CLONES void scale_row(bfloat16* out, const bfloat16* x, float weight, int64_t n) {
  scale_row_inline(out, x, weight, n);
}

template <typename T>
[[gnu::always_inline]] inline void add_to_row_inline(T* row, const T* x, int64_t n) {
#pragma omp simd
  for (int64_t d = 0; d < n; ++d) row[d] = from_float<T>(to_float(row[d]) + to_float(x[d]));
}
DT_VECTOR_CLONES void add_to_row(float* row, const float* x, int64_t n) {
  add_to_row_inline(row, x, n);
}
DT_VECTOR_CLONES void add_to_row(bfloat16* row, const bfloat16* x, int64_t n) {
  add_to_row_inline(row, x, n);
}

template <typename T>
[[gnu::always_inline]] inline float dot_row_inline(const T* a, const T* b, int64_t n) {
  float sum[kDotSums] = {};
  int64_t begin = 0;
  for (; begin + kDotSums <= n; begin += kDotSums) {
#pragma omp simd
    for (int j = 0; j < kDotSums; ++j) sum[j] = exact_fma(to_float(a[begin + j]), to_float(b[begin + j]), sum[j]);
  }
  for (int64_t d = begin; d < n; ++d) sum[d - begin] = exact_fma(to_float(a[d]), to_float(b[d]), sum[d - begin]);
  float lane[kDotLanes];
  for (int l = 0; l < kDotLanes; ++l) {
    lane[l] = sum[l * kDotSumsPerLane];
    for (int i = 1; i < kDotSumsPerLane; ++i) lane[l] += sum[l * kDotSumsPerLane + i];
  }
  for (int width = kDotLanes / 2; width >= 1; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}
DT_VECTOR_CLONES float dot_row(const float* a, const float* b, int64_t n) {
  return dot_row_inline(a, b, n);
}
DT_VECTOR_CLONES float dot_row(const bfloat16* a, const bfloat16* b, int64_t n) {
  return dot_row_inline(a, b, n);
}

constexpr int64_t kParallelElements = 32768;

/// Zeros in the rows that no slot has.
template <typename T>
void clear_padding(T* out, const RowMap& map, int64_t hidden) {
#pragma omp parallel for schedule(static) if (map.rows * hidden > kParallelElements)
  for (int64_t r = 0; r < map.rows; ++r) {
    if (map.slot_of_row[r] < 0) std::fill_n(out + r * hidden, hidden, T{});
  }
}

template <typename T>
void permute_rows_of(T* out, const T* x, const RowMap& map, int64_t hidden) {
  clear_padding(out, map, hidden);
#pragma omp parallel for schedule(static) if (map.tokens * hidden > kParallelElements)
  for (int64_t t = 0; t < map.tokens; ++t) {
    for (int64_t slot = t * map.top_k; slot < (t + 1) * map.top_k; ++slot) {
      const int64_t row = map.row_of_slot[slot];
      if (row >= 0) std::copy_n(x + t * hidden, hidden, out + row * hidden);
    }
  }
}

template <typename T>
void unpermute_rows_of(T* out, const T* y, const float* weight, const T* addend, const T* residual, const RowMap& map,
                       int64_t hidden) {
  constexpr int64_t kColumns = 1024;  // summed at a time, so that the sums stay in the nearest cache
#pragma omp parallel for schedule(static) if (map.tokens * hidden * map.top_k > kParallelElements)
  for (int64_t t = 0; t < map.tokens; ++t) {
    for (int64_t begin = 0; begin < hidden; begin += kColumns) {
      const int64_t n = std::min(kColumns, hidden - begin);
      float sum[kColumns];
      std::fill_n(sum, n, 0.0f);
      for (int64_t slot = t * map.top_k; slot < (t + 1) * map.top_k; ++slot) {
        const int64_t row = map.row_of_slot[slot];
        if (row >= 0) add_weighted_row(sum, y + row * hidden + begin, weight != nullptr ? weight[slot] : 1.0f, n);
      }
      T* to = out + t * hidden + begin;
      store_sum(to, sum, addend != nullptr ? addend + t * hidden + begin : nullptr, n);
      if (residual != nullptr) add_to_row(to, residual + t * hidden + begin, n);
    }
  }
}

template <typename T>
void unpermute_rows_backward_of(T* d_y, float* d_weight, const T* d_out, const T* y, const float* weight,
                                const RowMap& map, int64_t hidden) {
  clear_padding(d_y, map, hidden);
#pragma omp parallel for schedule(static) if (map.tokens * hidden > kParallelElements)
  for (int64_t t = 0; t < map.tokens; ++t) {
    const T* d_token = d_out + t * hidden;
    for (int64_t slot = t * map.top_k; slot < (t + 1) * map.top_k; ++slot) {
      const int64_t row = map.row_of_slot[slot];
      if (d_weight != nullptr) d_weight[slot] = row < 0 ? 0.0f : dot_row(d_token, y + row * hidden, hidden);
      if (row >= 0) scale_row(d_y + row * hidden, d_token, weight != nullptr ? weight[slot] : 1.0f, hidden);
    }
  }
}

}  // namespace

void permute_rows(float* out, const float* x, const RowMap& map, int64_t hidden) {
  permute_rows_of(out, x, map, hidden);
}
void permute_rows(bfloat16* out, const bfloat16* x, const RowMap& map, int64_t hidden) {
  permute_rows_of(out, x, map, hidden);
}

void unpermute_rows(float* out, const float* y, const float* weight, const float* addend, const float* residual,
                    const RowMap& map, int64_t hidden) {
  unpermute_rows_of(out, y, weight, addend, residual, map, hidden);
}
void unpermute_rows(bfloat16* out, const bfloat16* y, const float* weight, const bfloat16* addend,
                    const bfloat16* residual, const RowMap& map, int64_t hidden) {
  unpermute_rows_of(out, y, weight, addend, residual, map, hidden);
}

void unpermute_rows_backward(float* d_y, float* d_weight, const float* d_out, const float* y, const float* weight,
                             const RowMap& map, int64_t hidden) {
  unpermute_rows_backward_of(d_y, d_weight, d_out, y, weight, map, hidden);
}
void unpermute_rows_backward(bfloat16* d_y, float* d_weight, const bfloat16* d_out, const bfloat16* y,
                             const float* weight, const RowMap& map, int64_t hidden) {
  unpermute_rows_backward_of(d_y, d_weight, d_out, y, weight, map, hidden);
}

}  // namespace deeptitan::cpu
