#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/vector.cuh"

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

/// A thread two neighbouring pairs of neighbours, which it reads and writes at once; the same bits.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rope_rotate_pairs_kernel(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t pairs,
                             const float* cos, const float* sin, const int32_t* positions, int64_t rows, float sign) {
  const int64_t words = pairs / 2;
  for (int64_t i = first_element(); i < rows * heads * words; i += element_stride()) {
    const Place head = place_of(i, words);
    const Place row = place_of(head.row, heads);
    const int64_t position = positions[row.row];
    if (position < 0) continue;
    T* at = x + row.row * row_stride + row.column * head_stride + head.column * kVector;
    Floats<kVector> v = load_floats<kVector>(at);
    const float2 c = reinterpret_cast<const float2*>(cos + position * pairs)[head.column];
    const float2 s = reinterpret_cast<const float2*>(sin + position * pairs)[head.column];
    const float s0 = exact_mul(s.x, sign), s1 = exact_mul(s.y, sign);
    const Floats<kVector> turned = {
        {exact_fma(-v.at[1], s0, exact_mul(v.at[0], c.x)), exact_fma(v.at[1], c.x, exact_mul(v.at[0], s0)),
         exact_fma(-v.at[3], s1, exact_mul(v.at[2], c.y)), exact_fma(v.at[3], c.y, exact_mul(v.at[2], s1))}};
    store_floats(at, turned);
  }
}

template <typename T>
void launch_rope_rotate(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                        const float* sin, const int32_t* positions, int64_t rows, bool inverse, bool halves,
                        cudaStream_t stream) {
  const int64_t pairs = dim / 2;
  if (rows <= 0 || heads <= 0 || pairs <= 0) return;
  const bool pairs_of_pairs = pairs % 2 == 0 && reinterpret_cast<uintptr_t>(cos) % sizeof(float2) == 0 &&
                              reinterpret_cast<uintptr_t>(sin) % sizeof(float2) == 0;
  if (!halves && pairs_of_pairs && takes_vectors(x, row_stride) && takes_vectors(x, head_stride)) {
    rope_rotate_pairs_kernel<<<blocks_for<kThreads>(rows * heads * pairs / 2), kThreads, 0, stream>>>(
        x, row_stride, heads, head_stride, pairs, cos, sin, positions, rows, inverse ? -1.0f : 1.0f);
    check_launch("rope_rotate_pairs_kernel");
    return;
  }
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
