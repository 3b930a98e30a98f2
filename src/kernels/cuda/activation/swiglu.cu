#include "kernels/cuda/activation/swiglu.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  for (int64_t i = first_element(); i < rows * width; i += element_stride()) {
    const int64_t at = i / width * ld_gate_up + i % width;
    const float g = to_float(gate[at]);
    store_rounded(out + i, g * sigmoid(g) * to_float(up[at]));
  }
}

template <typename T>
void launch_swiglu(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width,
                   cudaStream_t stream) {
  if (rows <= 0 || width <= 0) return;
  swiglu_kernel<<<blocks_for<kThreads>(rows * width), kThreads, 0, stream>>>(out, gate, up, ld_gate_up, rows, width);
  check_launch("swiglu_kernel");
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                           int64_t ld_gate_up, int64_t rows, int64_t width) {
  for (int64_t i = first_element(); i < rows * width; i += element_stride()) {
    const int64_t at = i / width * ld_gate_up + i % width;
    const float g = to_float(gate[at]);
    const float u = to_float(up[at]);
    const float s = sigmoid(g);
    const float d_out_s = to_float(d_out[i]) * s;
    const int64_t d_at = i / width * ld_d + i % width;
    store_rounded(d_up + d_at, d_out_s * g);
    store_rounded(d_gate + d_at, d_out_s * u * (1.0f + g * (1.0f - s)));
  }
}

template <typename T>
void launch_swiglu_backward(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                            int64_t ld_gate_up, int64_t rows, int64_t width, cudaStream_t stream) {
  if (rows <= 0 || width <= 0) return;
  swiglu_backward_kernel<<<blocks_for<kThreads>(rows * width), kThreads, 0, stream>>>(d_gate, d_up, ld_d, d_out, gate,
                                                                                      up, ld_gate_up, rows, width);
  check_launch("swiglu_backward_kernel");
}

}  // namespace

void swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, int64_t rows, int64_t width,
            cudaStream_t stream) {
  launch_swiglu(out, gate, up, ld_gate_up, rows, width, stream);
}
void swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width,
            cudaStream_t stream) {
  launch_swiglu(out, gate, up, ld_gate_up, rows, width, stream);
}

void swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate, const float* up,
                     int64_t ld_gate_up, int64_t rows, int64_t width, cudaStream_t stream) {
  launch_swiglu_backward(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, rows, width, stream);
}
void swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out, const bfloat16* gate,
                     const bfloat16* up, int64_t ld_gate_up, int64_t rows, int64_t width, cudaStream_t stream) {
  launch_swiglu_backward(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, rows, width, stream);
}

}  // namespace deeptitan::cuda
