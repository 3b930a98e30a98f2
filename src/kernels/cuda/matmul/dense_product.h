#pragma once

// Dense matrix products through cuBLASLt: operands bf16, or f32 without TF32; every sum in fp32. All pointers are
// device pointers. Deterministic; nothing is allocated, waited for or read back, so that a stream may be captured.
//
// A product of rows with a weight is never split along K, and its algorithm is chosen for a class of row counts (at
// most kFewRows is kernels/cuda/matmul/few_rows.h; at most kBatchRows; 512; 1024; 2048; more), not for the count: a
// row's result does not depend on how many rows stand beside it within a class.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"

namespace deeptitan::cuda {

inline constexpr int64_t kBatchRows = 256;

/// Workspace handed to cuBLASLt: what its documentation recommends for Hopper.
inline constexpr size_t kDenseWorkspaceBytes = 32u << 20;

/// A row-major matrix as it is stored, `stride` elements from row to row.
struct DenseMatrix {
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  bool transposed = false;  // the product takes it so
  int64_t batch = 0;        // elements from one of its batches to the next
};

/// output [M, N] = left right, or output += left right.
struct DenseProduct {
  void* output = nullptr;
  int64_t output_stride = 0;
  bool f32_output = true;
  bool f32_operands = false;
  DenseMatrix left;
  DenseMatrix right;
  bool accumulate = false;
  bool whole_class = true;      // chosen for the class of M, and split along K if of few rows; else for this M, split
  int max_multiprocessors = 0;  // 0: all
  int64_t batches = 1;
  int64_t output_batch = 0;
};

/// Whether addresses and strides are multiples of 16 bytes, as these products want them.
bool dense_product_fits(const DenseProduct& product);

/// `workspace` has kDenseWorkspaceBytes, aligned to 256. Throws Error where cuBLASLt has no algorithm.
void multiply_dense(const DenseProduct& product, void* workspace, cudaStream_t stream);

}  // namespace deeptitan::cuda
