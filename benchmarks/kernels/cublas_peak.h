#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>

#include "harness.h"

namespace deeptitan::benchmark {

/// cuBLAS's bf16 product of two 8192 x 8192 matrices, by the fastest of the algorithms it proposes: what products are
/// held against.
class CublasPeak {
 public:
  static constexpr int64_t kSize = 8192;
  static constexpr double kFlops = 2.0 * kSize * kSize * kSize;
  static size_t version() { return cublasLtGetVersion(); }

  CublasPeak();
  CublasPeak(const CublasPeak&) = delete;
  CublasPeak& operator=(const CublasPeak&) = delete;
  ~CublasPeak();
  void launch(cudaStream_t stream = nullptr) const { multiply(algorithm_, stream); }

 private:
  void multiply(const cublasLtMatmulAlgo_t& algorithm, cudaStream_t stream) const;

  DeviceMemory a_, b_, c_, workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t descriptor_ = nullptr;
  cublasLtMatrixLayout_t layout_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
};

}  // namespace deeptitan::benchmark
