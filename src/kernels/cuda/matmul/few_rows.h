#pragma once

// Products of few rows with a weight, as in decoding: bound by reading the weight, which a warp a column does once, in
// order. Operands bf16, sums in fp32. All pointers are device pointers. Deterministic: a sum's order is a function of K
// alone. One launch; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/group_rows.h"

namespace deeptitan::cuda {

/// Rows that are few: of a product, and of all groups together.
inline constexpr int64_t kFewRows = 16;
inline constexpr int64_t kFewGroupedRows = 32;

/// y [M, N] = x W^T, or y += x W^T; W [N, K], dense. With groups W is [G, N, K], and a row meets the W of its group;
/// rows of none get nothing.
template <typename Output>
struct FewRowsProduct {
  Output* y = nullptr;
  int64_t ld_y = 0;
  const bfloat16* x = nullptr;
  int64_t ld_x = 0;
  const bfloat16* weight = nullptr;
  int64_t rows = 0;
  int64_t outputs = 0;
  int64_t inputs = 0;
  GroupRows groups = {};
  bool accumulate = false;
};

/// Whether x and W can be read 16 bytes at a time, and the rows are few.
template <typename Output>
bool few_rows_fit(const FewRowsProduct<Output>& product);

template <typename Output>
void multiply_few_rows(const FewRowsProduct<Output>& product, cudaStream_t stream);

/// Two products of the same x, without groups, in one launch.
void multiply_few_rows_twice(const FewRowsProduct<bfloat16>& first, const FewRowsProduct<bfloat16>& second,
                             cudaStream_t stream);

/// y [M, N] = x W^T for at most kFewRows rows in fp32, a thread an element of y: in the order of K, one fused
/// multiply-add a step, as the plain product has it (matmul.h) and with its bits.
void multiply_few_rows_in_order(float* y, int64_t ld_y, const float* x, int64_t ld_x, const float* weight, int64_t rows,
                                int64_t outputs, int64_t inputs, cudaStream_t stream);

}  // namespace deeptitan::cuda
