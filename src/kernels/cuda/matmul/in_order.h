#pragma once

// Products in fp32 with few columns, as a router has them: y = x W^T, where tiles are few and K is long, so that what
// counts is how soon each sum can go on. A sum has the order of the plain product (matmul.h): from zero along K, one
// fused multiply-add a step. So its bits are the plain product's and the CPU's, and depend on no other row.
// All pointers are device pointers. Deterministic; one launch; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

/// Columns above which a library's larger tiles serve better.
inline constexpr int64_t kFewColumns = 256;

/// y [M, N] = x [M, K] W [N, K]^T; x in bf16 is widened as it is read.
template <typename T>
struct InOrderProduct {
  float* y = nullptr;
  int64_t ld_y = 0;
  const T* x = nullptr;
  int64_t ld_x = 0;
  const float* weight = nullptr;
  int64_t rows = 0;
  int64_t outputs = 0;
  int64_t inputs = 0;
};

/// Whether columns are few, and x and W can be read 16 bytes at a time.
template <typename T>
bool in_order_fits(const InOrderProduct<T>& product);

void multiply_in_order(const InOrderProduct<float>& product, cudaStream_t stream);
void multiply_in_order(const InOrderProduct<bfloat16>& product, cudaStream_t stream);

/// Outputs above which a sum is long enough for a library.
inline constexpr int64_t kFewSteps = 256;

/// d_x [M, N] = d_y [M, K] W [K, N], or d_x += it: the gradient of what such a product multiplies. The sums are the
/// plain product's as well.
template <typename T>
struct InOrderGradient {
  T* d_x = nullptr;
  int64_t ld_d_x = 0;
  const float* d_y = nullptr;
  int64_t ld_d_y = 0;
  const float* weight = nullptr;
  int64_t rows = 0;
  int64_t steps = 0;    // K: the product's outputs
  int64_t columns = 0;  // N: its inputs
  bool accumulate = false;
};

/// Whether steps are few, and d_x, d_y and W can be read four elements at a time.
template <typename T>
bool in_order_gradient_fits(const InOrderGradient<T>& gradient);

void multiply_gradient_in_order(const InOrderGradient<float>& gradient, cudaStream_t stream);
void multiply_gradient_in_order(const InOrderGradient<bfloat16>& gradient, cudaStream_t stream);

}  // namespace deeptitan::cuda
