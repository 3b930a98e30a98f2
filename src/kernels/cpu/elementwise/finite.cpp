#include "kernels/cpu/elementwise/finite.h"

#include "kernels/cpu/optimizer/adamw.h"

namespace deeptitan::cpu {
namespace {

template <typename T>
bool every_row_finite(const T* x, int64_t stride, int64_t rows, int64_t columns) {
  if (stride == columns) return all_finite(x, rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    if (!all_finite(x + r * stride, columns)) return false;
  }
  return true;
}

}  // namespace

bool rows_finite(const float* x, int64_t stride, int64_t rows, int64_t columns) {
  return every_row_finite(x, stride, rows, columns);
}

bool rows_finite(const bfloat16* x, int64_t stride, int64_t rows, int64_t columns) {
  return every_row_finite(x, stride, rows, columns);
}

}  // namespace deeptitan::cpu
