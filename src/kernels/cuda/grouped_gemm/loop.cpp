#include "kernels/cuda/grouped_gemm/loop.h"

#include <vector>

#include "core/error.h"
#include "kernels/cuda/error.h"
#include "kernels/cuda/matmul/dense_product.h"

namespace deeptitan::cuda {

namespace {

struct Matrix {
  const bfloat16* data;
  int64_t rows, columns;  // as stored
  bool transposed;
};

/// output [m, n] = op(left) op(right) + beta x output, all row-major.
void multiply(void* output, bool f32_output, const Matrix& left, const Matrix& right, bool accumulate,
              int max_multiprocessors, void* workspace, cudaStream_t stream) {
  multiply_dense({.output = output,
                  .output_stride = right.transposed ? right.rows : right.columns,
                  .f32_output = f32_output,
                  .left = {left.data, left.rows, left.columns, left.columns, left.transposed},
                  .right = {right.data, right.rows, right.columns, right.columns, right.transposed},
                  .accumulate = accumulate,
                  .whole_class = false,
                  .max_multiprocessors = max_multiprocessors},
                 workspace, stream);
}

struct HostGroups {
  std::vector<int32_t> offsets, sizes;
};

/// Reads the groups on the host and waits for them.
HostGroups read_groups(const GroupedGemmShape& shape, cudaStream_t stream) {
  cudaStreamCaptureStatus capture;
  DT_CUDA_CHECK(cudaStreamIsCapturing(stream, &capture));
  DT_CHECK(capture == cudaStreamCaptureStatusNone,
           "grouped GEMM strategy loop reads the group sizes on the host and cannot be captured in a CUDA graph; use "
           "bf16, fp8_rowwise or fp8_blockwise");
  HostGroups groups{std::vector<int32_t>(shape.groups), std::vector<int32_t>(shape.groups)};
  const size_t bytes = sizeof(int32_t) * shape.groups;
  DT_CUDA_CHECK(cudaMemcpyAsync(groups.offsets.data(), shape.group_offsets, bytes, cudaMemcpyDeviceToHost, stream));
  DT_CUDA_CHECK(cudaMemcpyAsync(groups.sizes.data(), shape.group_sizes, bytes, cudaMemcpyDeviceToHost, stream));
  DT_CUDA_CHECK(cudaStreamSynchronize(stream));
  for (int g = 0; g < shape.groups; ++g) {
    DT_CHECK(groups.offsets[g] >= 0 && groups.sizes[g] >= 0 &&
                 static_cast<int64_t>(groups.offsets[g]) + groups.sizes[g] <= shape.rows,
             "group {} spans rows {} to {}, but the buffers have {} rows", g, groups.offsets[g],
             static_cast<int64_t>(groups.offsets[g]) + groups.sizes[g], shape.rows);
  }
  return groups;
}

}  // namespace

void loop_forward(bfloat16* output, const bfloat16* activations, const bfloat16* weights, const GroupedGemmShape& shape,
                  const GroupedGemmOptions& options, void* workspace, cudaStream_t stream) {
  const HostGroups groups = read_groups(shape, stream);
  const int64_t n = shape.n, k = shape.k;
  for (int g = 0; g < shape.groups; ++g) {
    const int64_t first = groups.offsets[g], size = groups.sizes[g];
    if (size == 0) continue;
    multiply(output + first * n, false, {activations + first * k, size, k, false}, {weights + g * n * k, n, k, true},
             false, options.max_multiprocessors, workspace, stream);
  }
}

void loop_input_gradient(bfloat16* input_gradient, const bfloat16* output_gradient, const bfloat16* weights,
                         const GroupedGemmShape& shape, const GroupedGemmOptions& options, void* workspace,
                         cudaStream_t stream) {
  const HostGroups groups = read_groups(shape, stream);
  const int64_t n = shape.n, k = shape.k;
  for (int g = 0; g < shape.groups; ++g) {
    const int64_t first = groups.offsets[g], size = groups.sizes[g];
    if (size == 0) continue;
    multiply(input_gradient + first * k, false, {output_gradient + first * n, size, n, false},
             {weights + g * n * k, n, k, false}, false, options.max_multiprocessors, workspace, stream);
  }
}

void loop_weight_gradient(float* weight_gradient, const bfloat16* output_gradient, const bfloat16* activations,
                          const GroupedGemmShape& shape, const GroupedGemmOptions& options, void* workspace,
                          cudaStream_t stream) {
  const HostGroups groups = read_groups(shape, stream);
  const int64_t n = shape.n, k = shape.k;
  for (int g = 0; g < shape.groups; ++g) {
    const int64_t first = groups.offsets[g], size = groups.sizes[g];
    float* gradient = weight_gradient + g * n * k;
    if (size > 0) {
      multiply(gradient, true, {output_gradient + first * n, size, n, true}, {activations + first * k, size, k, false},
               options.accumulate, options.max_multiprocessors, workspace, stream);
    } else if (!options.accumulate) {
      DT_CUDA_CHECK(cudaMemsetAsync(gradient, 0, sizeof(float) * n * k, stream));
    }
  }
}

}  // namespace deeptitan::cuda
