#include <type_traits>

#include "kernels/cuda/dependent_launch.cuh"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

template <int kCount, typename T>
__global__ void __launch_bounds__(kThreads) add_kernel(T* out, const T* a, const T* b, int64_t n) {
  let_next_launch_begin();
  wait_for_launch_before();
  for (int64_t i = first_element() * kCount; i < n; i += element_stride() * kCount) {
    Floats<kCount> x = load_floats<kCount>(a + i);
    const Floats<kCount> y = load_floats<kCount>(b + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) x.at[j] += y.at[j];
    store_floats(out + i, x);
  }
}

template <typename T>
void launch_add(T* out, const T* a, const T* b, int64_t n, cudaStream_t stream) {
  if (n <= 0) return;
  const bool vectors = takes_vectors(out, n) && takes_vectors(a, n) && takes_vectors(b, n);
  const auto kernel = vectors ? add_kernel<kVector, T> : add_kernel<1, T>;
  launch_dependent(kernel, "add_kernel", dim3(blocks_for<kThreads>(vectors ? n / kVector : n)), kThreads, 0, stream,
                   out, a, b, n);
}

__global__ void __launch_bounds__(kThreads)
    add_rows_kernel(bfloat16* out, int64_t ld_out, const bfloat16* x, int64_t ld_x, int64_t rows, int64_t columns) {
  for (int64_t i = first_element(); i < rows * columns; i += element_stride()) {
    bfloat16* element = out + i / columns * ld_out + i % columns;
    store_rounded(element, to_float(*element) + to_float(x[i / columns * ld_x + i % columns]));
  }
}

template <int kCount, typename Out, typename In>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(Out* out, int64_t ld_out, const In* in, int64_t ld_in, int64_t rows, int64_t columns) {
  const int64_t width = columns / kCount;
  for (int64_t i = first_element(); i < rows * width; i += element_stride()) {
    const Place place = place_of(i, width);
    store_floats(out + place.row * ld_out + place.column * kCount,
                 load_floats<kCount>(in + place.row * ld_in + place.column * kCount));
  }
}

/// A copy keeps a NaN's payload.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(T* out, int64_t ld_out, const T* in, int64_t ld_in, int64_t rows, int64_t columns) {
  for (int64_t i = first_element(); i < rows * columns; i += element_stride()) {
    const Place place = place_of(i, columns);
    out[place.row * ld_out + place.column] = in[place.row * ld_in + place.column];
  }
}

template <typename T>
void launch_copy(T* out, int64_t ld_out, const T* in, int64_t ld_in, int64_t rows, int64_t columns,
                 cudaStream_t stream) {
  copy_kernel<<<blocks_for<kThreads>(rows * columns), kThreads, 0, stream>>>(out, ld_out, in, ld_in, rows, columns);
  check_launch("copy_kernel");
}

/// Whether rows begin at whole words of 16 bytes.
template <typename T>
bool takes_words(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % sizeof(uint4) == 0 && stride % (sizeof(uint4) / sizeof(T)) == 0;
}

template <typename Out, typename In>
void launch_convert(Out* out, int64_t ld_out, const In* in, int64_t ld_in, int64_t rows, int64_t columns,
                    cudaStream_t stream) {
  if (rows <= 0 || columns <= 0) return;
  if constexpr (std::is_same_v<Out, In>) {
    constexpr int64_t kEach = sizeof(uint4) / sizeof(In);
    if (columns % kEach == 0 && takes_words(out, ld_out) && takes_words(in, ld_in)) {
      return launch_copy(reinterpret_cast<uint4*>(out), ld_out / kEach, reinterpret_cast<const uint4*>(in),
                         ld_in / kEach, rows, columns / kEach, stream);
    }
    launch_copy(out, ld_out, in, ld_in, rows, columns, stream);
  } else {
    const bool vectors = columns % kVector == 0 && takes_vectors(out, ld_out) && takes_vectors(in, ld_in);
    const auto kernel = vectors ? convert_kernel<kVector, Out, In> : convert_kernel<1, Out, In>;
    kernel<<<blocks_for<kThreads>(rows * columns / (vectors ? kVector : 1)), kThreads, 0, stream>>>(
        out, ld_out, in, ld_in, rows, columns);
    check_launch("convert_kernel");
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    find_not_finite_kernel(int32_t* not_finite, const T* x, int64_t ld, int64_t rows, int64_t columns) {
  bool found = false;
  for (int64_t i = first_element(); i < rows * columns; i += element_stride()) {
    found |= !isfinite(to_float(x[i / columns * ld + i % columns]));
  }
  if (found) *not_finite = 1;  // whoever writes writes the same
}

template <typename T>
void launch_find_not_finite(int32_t* not_finite, const T* x, int64_t ld, int64_t rows, int64_t columns,
                            cudaStream_t stream) {
  if (rows <= 0 || columns <= 0) return;
  find_not_finite_kernel<<<blocks_for<kThreads>(rows * columns), kThreads, 0, stream>>>(not_finite, x, ld, rows,
                                                                                        columns);
  check_launch("find_not_finite_kernel");
}

}  // namespace

void add(float* out, const float* a, const float* b, int64_t n, cudaStream_t stream) {
  launch_add(out, a, b, n, stream);
}
void add(bfloat16* out, const bfloat16* a, const bfloat16* b, int64_t n, cudaStream_t stream) {
  launch_add(out, a, b, n, stream);
}

void add_rows(bfloat16* out, int64_t ld_out, const bfloat16* x, int64_t ld_x, int64_t rows, int64_t columns,
              cudaStream_t stream) {
  if (rows <= 0 || columns <= 0) return;
  add_rows_kernel<<<blocks_for<kThreads>(rows * columns), kThreads, 0, stream>>>(out, ld_out, x, ld_x, rows, columns);
  check_launch("add_rows_kernel");
}

void convert(bfloat16* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream) {
  launch_convert(out, ld_out, in, ld_in, rows, columns, stream);
}
void convert(float* out, int64_t ld_out, const bfloat16* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream) {
  launch_convert(out, ld_out, in, ld_in, rows, columns, stream);
}
void convert(float* out, int64_t ld_out, const float* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream) {
  launch_convert(out, ld_out, in, ld_in, rows, columns, stream);
}
void convert(bfloat16* out, int64_t ld_out, const bfloat16* in, int64_t ld_in, int64_t rows, int64_t columns,
             cudaStream_t stream) {
  launch_convert(out, ld_out, in, ld_in, rows, columns, stream);
}

void find_not_finite(int32_t* not_finite, const float* x, int64_t ld, int64_t rows, int64_t columns,
                     cudaStream_t stream) {
  launch_find_not_finite(not_finite, x, ld, rows, columns, stream);
}
void find_not_finite(int32_t* not_finite, const bfloat16* x, int64_t ld, int64_t rows, int64_t columns,
                     cudaStream_t stream) {
  launch_find_not_finite(not_finite, x, ld, rows, columns, stream);
}

}  // namespace deeptitan::cuda
