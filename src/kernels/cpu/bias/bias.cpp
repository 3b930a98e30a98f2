#include "kernels/cpu/bias/bias.h"

#include <algorithm>

namespace deeptitan::cpu {
namespace {

constexpr int64_t kColumnBlock = 64;

inline void add_to(float& out, float value) {
  out += value;
}
inline void add_to(bfloat16& out, float value) {
  out = to_bfloat16(to_float(out) + value);
}

template <typename T>
void add_bias_any(T* out, int64_t ld, const float* bias, int64_t rows, int64_t columns) {
#pragma omp parallel for schedule(static) if (rows > 16)
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < columns; ++n) add_to(out[r * ld + n], bias[n]);
  }
}

template <typename T>
void add_bias_backward_any(float* d_bias, const T* d_out, int64_t ld, int64_t rows, int64_t columns, bool accumulate) {
#pragma omp parallel for schedule(static) if (rows > 16)
  for (int64_t first = 0; first < columns; first += kColumnBlock) {
    const int64_t last = std::min(columns, first + kColumnBlock);
    if (!accumulate) std::fill(d_bias + first, d_bias + last, 0.0f);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t n = first; n < last; ++n) d_bias[n] += to_float(d_out[r * ld + n]);
    }
  }
}

}  // namespace

void add_bias(float* out, int64_t ld, const float* bias, int64_t rows, int64_t columns) {
  add_bias_any(out, ld, bias, rows, columns);
}
void add_bias(bfloat16* out, int64_t ld, const float* bias, int64_t rows, int64_t columns) {
  add_bias_any(out, ld, bias, rows, columns);
}
void add_bias_backward(float* d_bias, const float* d_out, int64_t ld, int64_t rows, int64_t columns, bool accumulate) {
  add_bias_backward_any(d_bias, d_out, ld, rows, columns, accumulate);
}
void add_bias_backward(float* d_bias, const bfloat16* d_out, int64_t ld, int64_t rows, int64_t columns,
                       bool accumulate) {
  add_bias_backward_any(d_bias, d_out, ld, rows, columns, accumulate);
}

}  // namespace deeptitan::cpu
