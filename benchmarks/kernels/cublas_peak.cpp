#include "cublas_peak.h"

#include <cmath>

#include "core/error.h"
#include "kernels/cuda/error.h"

namespace deeptitan::benchmark {
namespace {

constexpr int64_t kWorkspaceBytes = 64 << 20;

void check_cublas(cublasStatus_t status) {
  DT_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLASLt failed: {}", cublasLtGetStatusString(status));
}

}  // namespace

CublasPeak::CublasPeak()
    : a_(2 * kSize * kSize), b_(2 * kSize * kSize), c_(2 * kSize * kSize), workspace_(kWorkspaceBytes) {
  fill_normal_bf16(a_.as<void>(), kSize * kSize, 1, nullptr);
  fill_normal_bf16(b_.as<void>(), kSize * kSize, 2, nullptr);
  check_cublas(cublasLtCreate(&handle_));
  check_cublas(cublasLtMatmulDescCreate(&descriptor_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t transpose = CUBLAS_OP_T;
  check_cublas(cublasLtMatmulDescSetAttribute(descriptor_, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose));
  check_cublas(cublasLtMatrixLayoutCreate(&layout_, CUDA_R_16BF, kSize, kSize, kSize));
  cublasLtMatmulPreference_t preference;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference));
  const size_t bytes = kWorkspaceBytes;
  check_cublas(
      cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes));
  constexpr int kAsked = 8;
  cublasLtMatmulHeuristicResult_t found[kAsked];
  int count = 0;
  check_cublas(cublasLtMatmulAlgoGetHeuristic(handle_, descriptor_, layout_, layout_, layout_, layout_, preference,
                                              kAsked, found, &count));
  check_cublas(cublasLtMatmulPreferenceDestroy(preference));
  cudaEvent_t begin = nullptr, end = nullptr;
  DT_CUDA_CHECK(cudaEventCreate(&begin));
  DT_CUDA_CHECK(cudaEventCreate(&end));
  float best = INFINITY;
  for (int i = 0; i < count; ++i) {
    for (int warm = 0; warm < 3; ++warm) multiply(found[i].algo, nullptr);
    DT_CUDA_CHECK(cudaEventRecord(begin));
    for (int timed = 0; timed < 10; ++timed) multiply(found[i].algo, nullptr);
    DT_CUDA_CHECK(cudaEventRecord(end));
    DT_CUDA_CHECK(cudaEventSynchronize(end));
    float elapsed = 0;
    DT_CUDA_CHECK(cudaEventElapsedTime(&elapsed, begin, end));
    if (elapsed >= best) continue;
    best = elapsed;
    algorithm_ = found[i].algo;
  }
  DT_CUDA_CHECK(cudaEventDestroy(begin));
  DT_CUDA_CHECK(cudaEventDestroy(end));
  DT_CHECK(best < INFINITY, "cuBLASLt proposes no algorithm for a bf16 product of 8192^3");
}

CublasPeak::~CublasPeak() {
  (void)cublasLtMatrixLayoutDestroy(layout_);
  (void)cublasLtMatmulDescDestroy(descriptor_);
  (void)cublasLtDestroy(handle_);
}

void CublasPeak::multiply(const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream) const {
  const float one = 1.0f, zero = 0.0f;
  check_cublas(cublasLtMatmul(handle_, descriptor_, &one, a_.as<void>(), layout_, b_.as<void>(), layout_, &zero,
                              c_.as<void>(), layout_, c_.as<void>(), layout_, &algorithm, workspace_.as<void>(),
                              kWorkspaceBytes, stream));
}

}  // namespace deeptitan::benchmark
