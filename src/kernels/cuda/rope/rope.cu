#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"
#include "kernels/cuda/kernel_choice.h"
#include "kernels/cuda/norm/row_words.cuh"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWordThreads = 128;

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

/// A thread 16 bytes of neighbouring pairs, which are on their way before it knows the position; the same bits.
template <typename T>
__global__ void __launch_bounds__(kWordThreads)
    rope_rotate_words_kernel(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t pairs,
                             const float* cos, const float* sin, const int32_t* positions, int64_t rows, float sign) {
  constexpr int kElements = kWordElements<T>;
  constexpr int kPairs = kElements / 2;
  const int64_t words = pairs / kPairs;
  const int64_t i = first_element();
  if (i >= rows * heads * words) return;
  const Place head = place_of(i, words);
  const Place row = place_of(head.row, heads);
  const int64_t word = head.column;
  auto* at = reinterpret_cast<uint4*>(x + row.row * row_stride + row.column * head_stride + word * kElements);
  const uint4 held = *at;
  const int64_t position = positions[row.row];
  if (position < 0) return;
  float v[kElements], turned[kElements];
  unpack_word(v, held);
#pragma unroll
  for (int p = 0; p < kPairs; p += 2) {
    const auto two = [&](const float* table) {
      return *reinterpret_cast<const float2*>(table + position * pairs + word * kPairs + p);
    };
    const float2 c = two(cos), s = two(sin);
    const float s0 = exact_mul(s.x, sign), s1 = exact_mul(s.y, sign);
    turned[2 * p] = exact_fma(-v[2 * p + 1], s0, exact_mul(v[2 * p], c.x));
    turned[2 * p + 1] = exact_fma(v[2 * p + 1], c.x, exact_mul(v[2 * p], s0));
    turned[2 * p + 2] = exact_fma(-v[2 * p + 3], s1, exact_mul(v[2 * p + 2], c.y));
    turned[2 * p + 3] = exact_fma(v[2 * p + 3], c.y, exact_mul(v[2 * p + 2], s1));
  }
  *at = pack_word(turned);
}

template <typename T>
void launch_rope_rotate(T* x, int64_t row_stride, int64_t heads, int64_t head_stride, int64_t dim, const float* cos,
                        const float* sin, const int32_t* positions, int64_t rows, bool inverse, bool halves,
                        cudaStream_t stream) {
  const int64_t pairs = dim / 2;
  if (rows <= 0 || heads <= 0 || pairs <= 0) return;
  const bool whole_words = dim % kWordElements<T> == 0 && takes_words(x, row_stride) && takes_words(x, head_stride) &&
                           reinterpret_cast<uintptr_t>(cos) % sizeof(float2) == 0 &&
                           reinterpret_cast<uintptr_t>(sin) % sizeof(float2) == 0;
  if (!halves && whole_words && !plain_kernels_wanted()) {
    const int64_t threads = rows * heads * (dim / kWordElements<T>);
    const auto blocks = static_cast<unsigned>((threads + kWordThreads - 1) / kWordThreads);
    rope_rotate_words_kernel<<<blocks, kWordThreads, 0, stream>>>(x, row_stride, heads, head_stride, pairs, cos, sin,
                                                                  positions, rows, inverse ? -1.0f : 1.0f);
    check_launch("rope_rotate_words_kernel");
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
