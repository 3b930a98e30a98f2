#include "kernels/cuda/grouped_gemm/loop.h"

#include <cublasLt.h>

#include <memory>
#include <vector>

#include "core/error.h"
#include "kernels/cuda/error.h"

namespace deeptitan::cuda {

namespace {

void check_cublas(cublasStatus_t status, const char* call) {
  DT_CHECK(status == CUBLAS_STATUS_SUCCESS, "{} failed: {}", call, cublasLtGetStatusString(status));
}
#define DT_CUBLAS_CHECK(call) check_cublas(call, #call)

template <typename T, cublasStatus_t (*destroy)(T)>
struct Destroy {
  void operator()(T object) const { (void)destroy(object); }
};
template <typename T, cublasStatus_t (*destroy)(T)>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy<T, destroy>>;
using Descriptor = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// The process's cuBLASLt handle; usable from any thread and for any device.
cublasLtHandle_t cublas() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t created;
    DT_CUBLAS_CHECK(cublasLtCreate(&created));
    return created;
  }();
  return handle;
}

/// A row-major matrix. cuBLASLt counts in columns: the same memory is its transpose there.
Layout make_layout(cudaDataType type, int64_t rows, int64_t columns) {
  cublasLtMatrixLayout_t layout;
  DT_CUBLAS_CHECK(
      cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(columns), static_cast<uint64_t>(rows), columns));
  return Layout(layout);
}

struct Matrix {
  const bfloat16* data;
  int64_t rows, columns;  // as stored
  bool transposed;
};

/// output [m, n] = op(left) op(right) + beta x output, all row-major.
void multiply(void* output, cudaDataType output_type, const Matrix& left, const Matrix& right, float beta,
              int max_multiprocessors, void* workspace, cudaStream_t stream) {
  const int64_t m = left.transposed ? left.columns : left.rows;
  const int64_t n = right.transposed ? right.rows : right.columns;
  cublasLtMatmulDesc_t created_descriptor;
  DT_CUBLAS_CHECK(cublasLtMatmulDescCreate(&created_descriptor, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const Descriptor descriptor(created_descriptor);
  // output^T = op(right)^T op(left)^T in cuBLASLt's column order, so right comes first.
  const cublasOperation_t first = right.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t second = left.transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const int32_t multiprocessors = max_multiprocessors;
  DT_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(descriptor.get(), CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
  DT_CUBLAS_CHECK(
      cublasLtMatmulDescSetAttribute(descriptor.get(), CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
  if (multiprocessors > 0) {
    DT_CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(descriptor.get(), CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET,
                                                   &multiprocessors, sizeof multiprocessors));
  }
  const Layout first_layout = make_layout(CUDA_R_16BF, right.rows, right.columns);
  const Layout second_layout = make_layout(CUDA_R_16BF, left.rows, left.columns);
  const Layout output_layout = make_layout(output_type, m, n);

  cublasLtMatmulPreference_t created_preference;
  DT_CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&created_preference));
  const Preference preference(created_preference);
  const size_t workspace_bytes = kLoopWorkspaceBytes;
  DT_CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                       &workspace_bytes, sizeof workspace_bytes));
  // A group may start at any row, so a pointer is aligned to one row's 16 bytes and no more.
  const uint32_t alignment = 16;
  for (const cublasLtMatmulPreferenceAttributes_t operand :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    DT_CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference.get(), operand, &alignment, sizeof alignment));
  }
  cublasLtMatmulHeuristicResult_t choice;
  int choices = 0;
  DT_CUBLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(cublas(), descriptor.get(), first_layout.get(), second_layout.get(),
                                                 output_layout.get(), output_layout.get(), preference.get(), 1, &choice,
                                                 &choices));
  DT_CHECK(choices > 0, "cuBLASLt has no algorithm for a bf16 product of {} x {} over {}", m, n,
           left.transposed ? left.rows : left.columns);
  const float alpha = 1.0f;
  DT_CUBLAS_CHECK(cublasLtMatmul(cublas(), descriptor.get(), &alpha, right.data, first_layout.get(), left.data,
                                 second_layout.get(), &beta, output, output_layout.get(), output, output_layout.get(),
                                 &choice.algo, workspace, kLoopWorkspaceBytes, stream));
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
    multiply(output + first * n, CUDA_R_16BF, {activations + first * k, size, k, false},
             {weights + g * n * k, n, k, true}, 0.0f, options.max_multiprocessors, workspace, stream);
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
    multiply(input_gradient + first * k, CUDA_R_16BF, {output_gradient + first * n, size, n, false},
             {weights + g * n * k, n, k, false}, 0.0f, options.max_multiprocessors, workspace, stream);
  }
}

void loop_weight_gradient(float* weight_gradient, const bfloat16* output_gradient, const bfloat16* activations,
                          const GroupedGemmShape& shape, const GroupedGemmOptions& options, void* workspace,
                          cudaStream_t stream) {
  const HostGroups groups = read_groups(shape, stream);
  const int64_t n = shape.n, k = shape.k;
  for (int g = 0; g < shape.groups; ++g) {
    const int64_t first = groups.offsets[g], size = groups.sizes[g];
    if (size == 0) continue;
    multiply(weight_gradient + g * n * k, CUDA_R_32F, {output_gradient + first * n, size, n, true},
             {activations + first * k, size, k, false}, 1.0f, options.max_multiprocessors, workspace, stream);
  }
}

}  // namespace deeptitan::cuda
