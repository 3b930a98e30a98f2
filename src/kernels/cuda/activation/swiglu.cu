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
__device__ void swiglu_rows(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  for (int64_t i = first_element(); i < rows * width; i += element_stride()) {
    const int64_t at = i / width * ld_gate_up + i % width;
    const float g = to_float(gate[at]);
    store_rounded(out + i, g * sigmoid(g) * to_float(up[at]));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_rows(out, gate, up, ld_gate_up, rows, width);
}

/// blockIdx.y is the group.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    grouped_swiglu_kernel(T* out, const T* gate, const T* up, int64_t ld_gate_up, GroupRows rows, int64_t width) {
  const int64_t first = rows.first[blockIdx.y];
  swiglu_rows(out + first * width, gate + first * ld_gate_up, up + first * ld_gate_up, ld_gate_up,
              rows.count[blockIdx.y], width);
}

/// Blocks for the elements of a group, if it had twice its share of the rows; more of them are gone over in turn.
template <typename Kernel, typename... Arguments>
void launch_for_groups(Kernel kernel, const char* name, const GroupRows& rows, int64_t capacity, int64_t width,
                       cudaStream_t stream, Arguments... arguments) {
  if (rows.groups <= 0 || capacity <= 0 || width <= 0) return;
  const int64_t share = (2 * capacity + rows.groups - 1) / rows.groups;
  const dim3 grid(static_cast<unsigned>(blocks_for<kThreads>(share * width)), static_cast<unsigned>(rows.groups));
  kernel<<<grid, kThreads, 0, stream>>>(arguments..., rows, width);
  check_launch(name);
}

template <typename T>
void launch_swiglu(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width,
                   cudaStream_t stream) {
  if (rows <= 0 || width <= 0) return;
  swiglu_kernel<<<blocks_for<kThreads>(rows * width), kThreads, 0, stream>>>(out, gate, up, ld_gate_up, rows, width);
  check_launch("swiglu_kernel");
}

template <typename T>
__device__ void swiglu_backward_rows(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
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
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                           int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_backward_rows(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, rows, width);
}

/// blockIdx.y is the group.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    grouped_swiglu_backward_kernel(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                                   int64_t ld_gate_up, GroupRows rows, int64_t width) {
  const int64_t first = rows.first[blockIdx.y];
  swiglu_backward_rows(d_gate + first * ld_d, d_up + first * ld_d, ld_d, d_out + first * width,
                       gate + first * ld_gate_up, up + first * ld_gate_up, ld_gate_up, rows.count[blockIdx.y], width);
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

void grouped_swiglu(float* out, const float* gate, const float* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t capacity, int64_t width, cudaStream_t stream) {
  launch_for_groups(grouped_swiglu_kernel<float>, "grouped_swiglu_kernel", rows, capacity, width, stream, out, gate, up,
                    ld_gate_up);
}
void grouped_swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t capacity, int64_t width, cudaStream_t stream) {
  launch_for_groups(grouped_swiglu_kernel<bfloat16>, "grouped_swiglu_kernel", rows, capacity, width, stream, out, gate,
                    up, ld_gate_up);
}

void grouped_swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate,
                             const float* up, int64_t ld_gate_up, const GroupRows& rows, int64_t capacity,
                             int64_t width, cudaStream_t stream) {
  launch_for_groups(grouped_swiglu_backward_kernel<float>, "grouped_swiglu_backward_kernel", rows, capacity, width,
                    stream, d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up);
}
void grouped_swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out,
                             const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                             int64_t capacity, int64_t width, cudaStream_t stream) {
  launch_for_groups(grouped_swiglu_backward_kernel<bfloat16>, "grouped_swiglu_backward_kernel", rows, capacity, width,
                    stream, d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up);
}

}  // namespace deeptitan::cuda
