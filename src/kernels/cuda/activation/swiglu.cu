#include "kernels/cuda/activation/swiglu.cuh"
#include "kernels/cuda/activation/swiglu.h"

#include <algorithm>

#include "kernels/cuda/error.h"
#include "kernels/cuda/vector.cuh"

namespace deeptitan::cuda {
namespace {

constexpr int kThreads = 256;

template <int kCount, typename T>
__device__ void swiglu_rows(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  const int64_t words = width / kCount;
  for (int64_t i = first_element(); i < rows * words; i += element_stride()) {
    const Place place = place_of(i, words);
    const int64_t at = place.row * ld_gate_up + place.column * kCount;
    const Floats<kCount> g = load_floats<kCount>(gate + at), u = load_floats<kCount>(up + at);
    Floats<kCount> result;
#pragma unroll
    for (int j = 0; j < kCount; ++j) result.at[j] = swiglu(g.at[j], u.at[j]);
    store_floats(out + i * kCount, result);
  }
}

template <int kCount, typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_kernel(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_rows<kCount>(out, gate, up, ld_gate_up, rows, width);
}

/// blockIdx.y is the group.
template <int kCount, typename T>
__global__ void __launch_bounds__(kThreads)
    grouped_swiglu_kernel(T* out, const T* gate, const T* up, int64_t ld_gate_up, GroupRows rows, int64_t width) {
  const int64_t first = rows.first[blockIdx.y];
  swiglu_rows<kCount>(out + first * width, gate + first * ld_gate_up, up + first * ld_gate_up, ld_gate_up,
                      rows.count[blockIdx.y], width);
}

/// Blocks for the words of a group, if it had twice its share of the rows; more of them are gone over in turn. So many
/// in all that a group with many rows finds free multiprocessors, and so few that starting them does not show.
template <typename Kernel, typename... Arguments>
void launch_for_groups(Kernel kernel, const char* name, const GroupRows& rows, int64_t capacity, int64_t width,
                       bool vectors, cudaStream_t stream, Arguments... arguments) {
  if (rows.groups <= 0 || capacity <= 0 || width <= 0) return;
  constexpr int64_t kMostBlocks = 16384, kLeastOfGroup = 32;
  const int64_t share = (2 * capacity + rows.groups - 1) / rows.groups;
  const int64_t wanted = blocks_for<kThreads>(share * width / (vectors ? kVector : 1));
  const int64_t most = std::max(kLeastOfGroup, kMostBlocks / rows.groups);
  const dim3 grid(static_cast<unsigned>(std::min(wanted, most)), static_cast<unsigned>(rows.groups));
  kernel<<<grid, kThreads, 0, stream>>>(arguments..., rows, width);
  check_launch(name);
}

template <typename T>
bool forward_takes_vectors(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t width) {
  return takes_vectors(out, width) && takes_vectors(gate, ld_gate_up) && takes_vectors(up, ld_gate_up);
}
template <typename T>
bool backward_takes_vectors(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                            int64_t ld_gate_up, int64_t width) {
  return takes_vectors(d_gate, ld_d) && takes_vectors(d_up, ld_d) && takes_vectors(d_out, width) &&
         takes_vectors(gate, ld_gate_up) && takes_vectors(up, ld_gate_up);
}

template <typename T>
void launch_grouped_swiglu(T* out, const T* gate, const T* up, int64_t ld_gate_up, const GroupRows& rows,
                           int64_t capacity, int64_t width, cudaStream_t stream) {
  const bool vectors = forward_takes_vectors(out, gate, up, ld_gate_up, width);
  const auto kernel = vectors ? grouped_swiglu_kernel<kVector, T> : grouped_swiglu_kernel<1, T>;
  launch_for_groups(kernel, "grouped_swiglu_kernel", rows, capacity, width, vectors, stream, out, gate, up, ld_gate_up);
}

template <typename T>
void launch_swiglu(T* out, const T* gate, const T* up, int64_t ld_gate_up, int64_t rows, int64_t width,
                   cudaStream_t stream) {
  if (rows <= 0 || width <= 0) return;
  const bool vectors = forward_takes_vectors(out, gate, up, ld_gate_up, width);
  const auto kernel = vectors ? swiglu_kernel<kVector, T> : swiglu_kernel<1, T>;
  kernel<<<blocks_for<kThreads>(rows * width / (vectors ? kVector : 1)), kThreads, 0, stream>>>(
      out, gate, up, ld_gate_up, rows, width);
  check_launch("swiglu_kernel");
}

template <int kCount, typename T>
__device__ void swiglu_backward_rows(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                                     int64_t ld_gate_up, int64_t rows, int64_t width) {
  const int64_t words = width / kCount;
  for (int64_t i = first_element(); i < rows * words; i += element_stride()) {
    const Place place = place_of(i, words);
    const int64_t at = place.row * ld_gate_up + place.column * kCount;
    const Floats<kCount> g = load_floats<kCount>(gate + at), u = load_floats<kCount>(up + at);
    const Floats<kCount> d = load_floats<kCount>(d_out + i * kCount);
    Floats<kCount> of_gate, of_up;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const float s = sigmoid(g.at[j]);
      const float d_out_s = d.at[j] * s;
      of_up.at[j] = d_out_s * g.at[j];
      of_gate.at[j] = d_out_s * u.at[j] * (1.0f + g.at[j] * (1.0f - s));
    }
    const int64_t d_at = place.row * ld_d + place.column * kCount;
    store_floats(d_up + d_at, of_up);
    store_floats(d_gate + d_at, of_gate);
  }
}

template <int kCount, typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                           int64_t ld_gate_up, int64_t rows, int64_t width) {
  swiglu_backward_rows<kCount>(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, rows, width);
}

/// blockIdx.y is the group.
template <int kCount, typename T>
__global__ void __launch_bounds__(kThreads)
    grouped_swiglu_backward_kernel(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                                   int64_t ld_gate_up, GroupRows rows, int64_t width) {
  const int64_t first = rows.first[blockIdx.y];
  swiglu_backward_rows<kCount>(d_gate + first * ld_d, d_up + first * ld_d, ld_d, d_out + first * width,
                               gate + first * ld_gate_up, up + first * ld_gate_up, ld_gate_up, rows.count[blockIdx.y],
                               width);
}

template <typename T>
void launch_swiglu_backward(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                            int64_t ld_gate_up, int64_t rows, int64_t width, cudaStream_t stream) {
  if (rows <= 0 || width <= 0) return;
  const bool vectors = backward_takes_vectors(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, width);
  const auto kernel = vectors ? swiglu_backward_kernel<kVector, T> : swiglu_backward_kernel<1, T>;
  kernel<<<blocks_for<kThreads>(rows * width / (vectors ? kVector : 1)), kThreads, 0, stream>>>(
      d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, rows, width);
  check_launch("swiglu_backward_kernel");
}

template <typename T>
void launch_grouped_swiglu_backward(T* d_gate, T* d_up, int64_t ld_d, const T* d_out, const T* gate, const T* up,
                                    int64_t ld_gate_up, const GroupRows& rows, int64_t capacity, int64_t width,
                                    cudaStream_t stream) {
  const bool vectors = backward_takes_vectors(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, width);
  const auto kernel = vectors ? grouped_swiglu_backward_kernel<kVector, T> : grouped_swiglu_backward_kernel<1, T>;
  launch_for_groups(kernel, "grouped_swiglu_backward_kernel", rows, capacity, width, vectors, stream, d_gate, d_up,
                    ld_d, d_out, gate, up, ld_gate_up);
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
  launch_grouped_swiglu(out, gate, up, ld_gate_up, rows, capacity, width, stream);
}
void grouped_swiglu(bfloat16* out, const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                    int64_t capacity, int64_t width, cudaStream_t stream) {
  launch_grouped_swiglu(out, gate, up, ld_gate_up, rows, capacity, width, stream);
}

void grouped_swiglu_backward(float* d_gate, float* d_up, int64_t ld_d, const float* d_out, const float* gate,
                             const float* up, int64_t ld_gate_up, const GroupRows& rows, int64_t capacity,
                             int64_t width, cudaStream_t stream) {
  launch_grouped_swiglu_backward(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, rows, capacity, width, stream);
}
void grouped_swiglu_backward(bfloat16* d_gate, bfloat16* d_up, int64_t ld_d, const bfloat16* d_out,
                             const bfloat16* gate, const bfloat16* up, int64_t ld_gate_up, const GroupRows& rows,
                             int64_t capacity, int64_t width, cudaStream_t stream) {
  launch_grouped_swiglu_backward(d_gate, d_up, ld_d, d_out, gate, up, ld_gate_up, rows, capacity, width, stream);
}

}  // namespace deeptitan::cuda
