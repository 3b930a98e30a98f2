#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/rope/rope.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

/// A thread a pair. A row whose position is negative is padding, and is left as it is.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rope_rotate_kernel(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t pairs, const float* cos,
                       const float* sin, const int32_t* positions, int64_t rows, float sign, bool halves) {
  for (int64_t i = first_element(); i < rows * heads * pairs; i += element_stride()) {
    const int64_t pair = i % pairs;
    const int64_t head = i / pairs % heads;
    const int64_t row = i / pairs / heads;
    const int64_t position = positions[row];
    if (position < 0) continue;
    T* first = x + row * row_stride + head * head_stride + (halves ? pair : 2 * pair);
    T* second = first + (halves ? pairs : 1);
    const float c = cos[position * pairs + pair];
    const float s = exact_mul(sin[position * pairs + pair], sign);
    const float a = to_float(*first);
    const float b = to_float(*second);
    store_rounded(first, exact_fma(-b, s, exact_mul(a, c)));
    store_rounded(second, exact_fma(b, c, exact_mul(a, s)));
  }
}

template <typename T>
void launch_rope_rotate(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                        const float* sin, const int32_t* positions, int64_t rows, bool inverse, bool halves,
                        cudaStream_t stream) {
  const int64_t pairs = dim / 2;
  if (rows <= 0 || heads <= 0 || pairs <= 0) return;
  rope_rotate_kernel<<<blocks_for<kThreads>(rows * heads * pairs), kThreads, 0, stream>>>(
      x, row_stride, heads, head_stride, pairs, cos, sin, positions, rows, inverse ? -1.0f : 1.0f, halves);
  check_launch("rope_rotate_kernel");
}

}  // namespace

void rope_rotate(float* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse, bool halves,
                 cudaStream_t stream) {
  launch_rope_rotate(x, row_stride, heads, head_stride, dim, cos, sin, positions, rows, inverse, halves, stream);
}
void rope_rotate(bfloat16* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                 const float* sin, const int32_t* positions, int64_t rows, bool inverse, bool halves,
                 cudaStream_t stream) {
  launch_rope_rotate(x, row_stride, heads, head_stride, dim, cos, sin, positions, rows, inverse, halves, stream);
}

}  // namespace deeptitan::cuda
