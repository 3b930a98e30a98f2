#include "kernels/cpu/norm/rms_norm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm/rms_norm.cpp"
#include <hwy/foreach_target.h>

#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace deeptitan::cpu {
namespace HWY_NAMESPACE {

HWY_INLINE float reciprocal_rms(float sum_of_squares, int64_t dim, float epsilon) {
  return 1.0f / std::sqrt(sum_of_squares / static_cast<float>(dim) + epsilon);
}

template <typename T>
HWY_INLINE void scale_row(T* out, const T* x, float row_rstd, const float* weight, int64_t dim) {
  const FloatVec factor = hn::Set(FloatTag(), row_rstd);
  for_vectors(0, dim, [=](int64_t i, auto lanes) HWY_ATTR {
    store(hn::Mul(hn::Mul(load(x + i, lanes), factor), load(weight + i, lanes)), out + i, lanes);
  });
}

template <typename T>
void rms_norm_rows(T* out, int64_t ld_out, float* rstd, const T* x, int64_t ld_x, const float* weight, int64_t rows,
                   int64_t dim, float epsilon) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* x_row = x + r * ld_x;
    const float sum = sum_vectors(dim, [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR {
      const FloatVec value = load(x_row + i, lanes);
      return hn::MulAdd(value, value, total);
    });
    const float row_rstd = reciprocal_rms(sum, dim, epsilon);
    if (rstd != nullptr) rstd[r] = row_rstd;
    scale_row(out + r * ld_out, x_row, row_rstd, weight, dim);
  }
}

template <typename T>
void add_rms_norm_rows(T* sum_out, T* normed_out, float* rstd, const T* a, const T* b, const float* weight,
                       int64_t rows, int64_t dim, float epsilon) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* a_row = a + r * dim;
    const T* b_row = b + r * dim;
    T* sum_row = sum_out + r * dim;
    const float sum = sum_vectors(dim, [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR {
      const FloatVec value = rounded_as(sum_row, hn::Add(load(a_row + i, lanes), load(b_row + i, lanes)));
      store(value, sum_row + i, lanes);
      return hn::MulAdd(value, value, total);
    });
    const float row_rstd = reciprocal_rms(sum, dim, epsilon);
    if (rstd != nullptr) rstd[r] = row_rstd;
    scale_row(normed_out + r * dim, static_cast<const T*>(sum_row), row_rstd, weight, dim);
  }
}

template <typename T>
void rms_norm_backward_input_rows(T* d_x, int64_t ld_d_x, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                                  const float* rstd, const float* weight, int64_t rows, int64_t dim, bool accumulate) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* x_row = x + r * ld_x;
    const T* d_out_row = d_out + r * ld_d_out;
    T* d_x_row = d_x + r * ld_d_x;
    const float dot = sum_vectors(dim, [=](FloatVec total, int64_t i, auto lanes) HWY_ATTR {
      return hn::MulAdd(hn::Mul(load(weight + i, lanes), load(d_out_row + i, lanes)), load(x_row + i, lanes), total);
    });
    const FloatVec factor = hn::Set(FloatTag(), rstd[r]);
    // d_x = rstd * (weight * d_out) - x * (rstd^3 * dot / dim)
    const FloatVec projection = hn::Set(FloatTag(), rstd[r] * rstd[r] * rstd[r] * (dot / static_cast<float>(dim)));
    const auto gradient = [=](int64_t i, auto lanes) HWY_ATTR {
      const FloatVec direct = hn::Mul(hn::Mul(load(weight + i, lanes), load(d_out_row + i, lanes)), factor);
      return hn::NegMulAdd(load(x_row + i, lanes), projection, direct);
    };
    if (accumulate) {
      for_vectors(0, dim, [=](int64_t i, auto lanes) HWY_ATTR {
        store(hn::Add(load(d_x_row + i, lanes), gradient(i, lanes)), d_x_row + i, lanes);
      });
    } else {
      for_vectors(0, dim, [=](int64_t i, auto lanes) HWY_ATTR { store(gradient(i, lanes), d_x_row + i, lanes); });
    }
  }
}

template <typename T>
void rms_norm_backward_weight_rows(float* d_weight, const T* d_out, int64_t ld_d_out, const T* x, int64_t ld_x,
                                   const float* rstd, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* x_row = x + r * ld_x;
    const T* d_out_row = d_out + r * ld_d_out;
    const FloatVec factor = hn::Set(FloatTag(), rstd[r]);
    for_vectors(0, dim, [=](int64_t i, auto lanes) HWY_ATTR {
      const FloatVec normed = hn::Mul(load(x_row + i, lanes), factor);
      store(hn::MulAdd(load(d_out_row + i, lanes), normed, load(d_weight + i, lanes)), d_weight + i, lanes);
    });
  }
}

/// sum[i] += (or =) the terms [chunks, ld] in order, for i in [0, columns).
void add_chunks(float* sum, const float* terms, int64_t ld, int64_t chunks, int64_t columns, bool accumulate) {
  for_vectors(0, columns, [=](int64_t i, auto lanes) HWY_ATTR {
    FloatVec total = accumulate ? load(sum + i, lanes) : hn::Zero(FloatTag());
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total = hn::Add(total, load(terms + chunk * ld + i, lanes));
    store(total, sum + i, lanes);
  });
}

// Dispatch tables are made by name: one for each element type.
constexpr auto& rms_norm_f32 = rms_norm_rows<float>;
constexpr auto& rms_norm_bf16 = rms_norm_rows<bfloat16>;
constexpr auto& add_rms_norm_f32 = add_rms_norm_rows<float>;
constexpr auto& add_rms_norm_bf16 = add_rms_norm_rows<bfloat16>;
constexpr auto& rms_norm_backward_input_f32 = rms_norm_backward_input_rows<float>;
constexpr auto& rms_norm_backward_input_bf16 = rms_norm_backward_input_rows<bfloat16>;
constexpr auto& rms_norm_backward_weight_f32 = rms_norm_backward_weight_rows<float>;
constexpr auto& rms_norm_backward_weight_bf16 = rms_norm_backward_weight_rows<bfloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace deeptitan::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/cpu/parallel.h"

namespace deeptitan::cpu {
namespace {

HWY_EXPORT(rms_norm_f32);
HWY_EXPORT(rms_norm_bf16);
HWY_EXPORT(add_rms_norm_f32);
HWY_EXPORT(add_rms_norm_bf16);
HWY_EXPORT(rms_norm_backward_input_f32);
HWY_EXPORT(rms_norm_backward_input_bf16);
HWY_EXPORT(rms_norm_backward_weight_f32);
HWY_EXPORT(rms_norm_backward_weight_bf16);
HWY_EXPORT(add_chunks);

template <typename T, typename Kernel>
void rms_norm_parallel(Kernel kernel, T* out, int64_t ld_out, float* rstd, const T* x, int64_t ld_x,
                       const float* weight, int64_t rows, int64_t dim, float epsilon) {
  parallel_ranges(rows, rows * dim, 1, [=](int64_t begin, int64_t end) {
    kernel(out + begin * ld_out, ld_out, rstd == nullptr ? nullptr : rstd + begin, x + begin * ld_x, ld_x, weight,
           end - begin, dim, epsilon);
  });
}

template <typename T, typename Kernel>
void add_rms_norm_parallel(Kernel kernel, T* sum_out, T* normed_out, float* rstd, const T* a, const T* b,
                           const float* weight, int64_t rows, int64_t dim, float epsilon) {
  parallel_ranges(rows, rows * dim, 1, [=](int64_t begin, int64_t end) {
    const int64_t first = begin * dim;
    kernel(sum_out + first, normed_out + first, rstd == nullptr ? nullptr : rstd + begin, a + first, b + first, weight,
           end - begin, dim, epsilon);
  });
}

template <typename T, typename Kernel>
void backward_input_parallel(Kernel kernel, T* d_x, int64_t ld_d_x, const T* d_out, int64_t ld_d_out, const T* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate) {
  parallel_ranges(rows, 2 * rows * dim, 1, [=](int64_t begin, int64_t end) {
    kernel(d_x + begin * ld_d_x, ld_d_x, d_out + begin * ld_d_out, ld_d_out, x + begin * ld_x, ld_x, rstd + begin,
           weight, end - begin, dim, accumulate);
  });
}

// At least 64 rows a chunk, at most 64 chunks.
constexpr int64_t kMaxChunks = 64;
int64_t rows_per_chunk(int64_t rows) {
  return std::max<int64_t>(64, (rows + kMaxChunks - 1) / kMaxChunks);
}
int64_t chunk_count(int64_t rows) {
  return (rows + rows_per_chunk(rows) - 1) / rows_per_chunk(rows);
}

template <typename T, typename Kernel>
void backward_weight_parallel(Kernel kernel, float* d_weight, const T* d_out, int64_t ld_d_out, const T* x,
                              int64_t ld_x, const float* rstd, int64_t rows, int64_t dim, float* workspace,
                              bool accumulate) {
  const int64_t chunk_rows = rows_per_chunk(rows);
  const int64_t chunks = chunk_count(rows);
  parallel_ranges(chunks, rows * dim, 1, [=](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * chunk_rows;
      std::memset(workspace + chunk * dim, 0, static_cast<size_t>(dim) * sizeof(float));
      kernel(workspace + chunk * dim, d_out + first * ld_d_out, ld_d_out, x + first * ld_x, ld_x, rstd + first,
             std::min(chunk_rows, rows - first), dim);
    }
  });
  const auto add = HWY_DYNAMIC_DISPATCH(add_chunks);
  parallel_ranges(dim, chunks * dim, 64, [=](int64_t begin, int64_t end) {
    add(d_weight + begin, workspace + begin, dim, chunks, end - begin, accumulate);
  });
}

}  // namespace

void rms_norm(float* out, int64_t ld_out, float* rstd, const float* x, int64_t ld_x, const float* weight, int64_t rows,
              int64_t dim, float epsilon) {
  rms_norm_parallel(HWY_DYNAMIC_DISPATCH(rms_norm_f32), out, ld_out, rstd, x, ld_x, weight, rows, dim, epsilon);
}

void rms_norm(bfloat16* out, int64_t ld_out, float* rstd, const bfloat16* x, int64_t ld_x, const float* weight,
              int64_t rows, int64_t dim, float epsilon) {
  rms_norm_parallel(HWY_DYNAMIC_DISPATCH(rms_norm_bf16), out, ld_out, rstd, x, ld_x, weight, rows, dim, epsilon);
}

void add_rms_norm(float* sum_out, float* normed_out, float* rstd, const float* a, const float* b, const float* weight,
                  int64_t rows, int64_t dim, float epsilon) {
  add_rms_norm_parallel(HWY_DYNAMIC_DISPATCH(add_rms_norm_f32), sum_out, normed_out, rstd, a, b, weight, rows, dim,
                        epsilon);
}

void add_rms_norm(bfloat16* sum_out, bfloat16* normed_out, float* rstd, const bfloat16* a, const bfloat16* b,
                  const float* weight, int64_t rows, int64_t dim, float epsilon) {
  add_rms_norm_parallel(HWY_DYNAMIC_DISPATCH(add_rms_norm_bf16), sum_out, normed_out, rstd, a, b, weight, rows, dim,
                        epsilon);
}

void rms_norm_backward_input(float* d_x, int64_t ld_d_x, const float* d_out, int64_t ld_d_out, const float* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate) {
  backward_input_parallel(HWY_DYNAMIC_DISPATCH(rms_norm_backward_input_f32), d_x, ld_d_x, d_out, ld_d_out, x, ld_x,
                          rstd, weight, rows, dim, accumulate);
}

void rms_norm_backward_input(bfloat16* d_x, int64_t ld_d_x, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x,
                             int64_t ld_x, const float* rstd, const float* weight, int64_t rows, int64_t dim,
                             bool accumulate) {
  backward_input_parallel(HWY_DYNAMIC_DISPATCH(rms_norm_backward_input_bf16), d_x, ld_d_x, d_out, ld_d_out, x, ld_x,
                          rstd, weight, rows, dim, accumulate);
}

int64_t rms_norm_backward_weight_workspace(int64_t rows, int64_t dim) {
  return rows <= 0 ? 0 : chunk_count(rows) * dim;
}

void rms_norm_backward_weight(float* d_weight, const float* d_out, int64_t ld_d_out, const float* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, bool accumulate) {
  backward_weight_parallel(HWY_DYNAMIC_DISPATCH(rms_norm_backward_weight_f32), d_weight, d_out, ld_d_out, x, ld_x, rstd,
                           rows, dim, workspace, accumulate);
}

void rms_norm_backward_weight(float* d_weight, const bfloat16* d_out, int64_t ld_d_out, const bfloat16* x, int64_t ld_x,
                              const float* rstd, int64_t rows, int64_t dim, float* workspace, bool accumulate) {
  backward_weight_parallel(HWY_DYNAMIC_DISPATCH(rms_norm_backward_weight_bf16), d_weight, d_out, ld_d_out, x, ld_x,
                           rstd, rows, dim, workspace, accumulate);
}

}  // namespace deeptitan::cpu
#endif  // HWY_ONCE
