#include "kernels/cuda/bias/bias.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_bias_kernel(T* out, int64_t ld, const float* bias, int64_t rows, int64_t columns) {
  for (int64_t i = first_element(); i < rows * columns; i += element_stride()) {
    T* element = out + i / columns * ld + i % columns;
    store_rounded(element, to_float(*element) + bias[i % columns]);
  }
}

template <typename T>
void launch_add_bias(T* out, int64_t ld, const float* bias, int64_t rows, int64_t columns, cudaStream_t stream) {
  if (rows <= 0 || columns <= 0) return;
  add_bias_kernel<<<blocks_for<kThreads>(rows * columns), kThreads, 0, stream>>>(out, ld, bias, rows, columns);
  check_launch("add_bias_kernel");
}

/// A thread a column, in the order of the rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_bias_backward_kernel(float* d_bias, const T* d_out, int64_t ld, int64_t rows, int64_t columns) {
  for (int64_t n = first_element(); n < columns; n += element_stride()) {
    float sum = d_bias[n];
    for (int64_t r = 0; r < rows; ++r) sum += to_float(d_out[r * ld + n]);
    d_bias[n] = sum;
  }
}

template <typename T>
void launch_add_bias_backward(float* d_bias, const T* d_out, int64_t ld, int64_t rows, int64_t columns,
                              cudaStream_t stream) {
  if (rows <= 0 || columns <= 0) return;
  add_bias_backward_kernel<<<blocks_for<kThreads>(columns), kThreads, 0, stream>>>(d_bias, d_out, ld, rows, columns);
  check_launch("add_bias_backward_kernel");
}

}  // namespace

void add_bias(float* out, int64_t ld, const float* bias, int64_t rows, int64_t columns, cudaStream_t stream) {
  launch_add_bias(out, ld, bias, rows, columns, stream);
}
void add_bias(bfloat16* out, int64_t ld, const float* bias, int64_t rows, int64_t columns, cudaStream_t stream) {
  launch_add_bias(out, ld, bias, rows, columns, stream);
}

void add_bias_backward(float* d_bias, const float* d_out, int64_t ld, int64_t rows, int64_t columns,
                       cudaStream_t stream) {
  launch_add_bias_backward(d_bias, d_out, ld, rows, columns, stream);
}
void add_bias_backward(float* d_bias, const bfloat16* d_out, int64_t ld, int64_t rows, int64_t columns,
                       cudaStream_t stream) {
  launch_add_bias_backward(d_bias, d_out, ld, rows, columns, stream);
}

}  // namespace deeptitan::cuda
