#pragma once

// Products in fp32 with few columns, as a router has them: y = x W^T, where tiles are few and K is long, so that what
// counts is how soon each sum can go on. A sum has the order of the plain product (matmul.h): from zero along K, one
// fused multiply-add a step. So its bits are the plain product's and the CPU's, and depend on no other row.
// All pointers are device pointers. Deterministic; one launch; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace deeptitan::cuda {

/// Columns above which a library's larger tiles serve better.
inline constexpr int64_t kFewColumns = 256;

/// y [M, N] = x [M, K] W [N, K]^T.
struct InOrderProduct {
  float* y = nullptr;
  int64_t ld_y = 0;
  const float* x = nullptr;
  int64_t ld_x = 0;
  const float* weight = nullptr;
  int64_t rows = 0;
  int64_t outputs = 0;
  int64_t inputs = 0;
};

/// Whether columns are few, and x and W can be read 16 bytes at a time.
bool in_order_fits(const InOrderProduct& product);

void multiply_in_order(const InOrderProduct& product, cudaStream_t stream);

}  // namespace deeptitan::cuda
