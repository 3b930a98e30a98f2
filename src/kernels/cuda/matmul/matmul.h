#pragma once

// Matrix products of the GPU in their plain form: any size and any stride, fp32 or bf16 operands, every product and sum
// in fp32 (no TF32). Legend: M rows, N columns, K contracted length ("steps").
// A sum starts at zero and runs in the order of K, one fused multiply-add a step, whatever the size: so a row's result
// does not depend on the rows beside it, and fp32 products have the bits of the CPU's.
// All pointers are device pointers. Deterministic; one launch; nothing is allocated, waited for or read back.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/group_rows.h"

namespace deeptitan::cuda {

/// What the groups of a product cut.
enum class ProductGroups {
  kNone,   // all batches have all rows and steps
  kRows,   // batch g has the rows of group g of A and C
  kSteps,  // batch g has the rows of group g as steps of A and B
};

/// C[m, n] = sum over k of A[m, k] B[k, n] for each batch, or C += where `accumulate`. Distances are in elements.
///   y = x W^T with W [N, K]:       a_row = ld_x, a_step = 1; b_step = 1, b_column = K
///   d_x = d_y W:                   a_row = ld_y, a_step = 1; b_step = K, b_column = 1 (contracted over W's rows)
///   d_W = d_y^T x:                 a_row = 1, a_step = ld_y; b_step = ld_x, b_column = 1
template <typename Input, typename Output>
struct StridedProduct {
  Output* c = nullptr;
  int64_t c_row = 0;
  int64_t c_batch = 0;
  const Input* a = nullptr;
  int64_t a_row = 0;
  int64_t a_step = 0;
  int64_t a_batch = 0;
  const Input* b = nullptr;
  int64_t b_step = 0;
  int64_t b_column = 0;
  int64_t b_batch = 0;
  int64_t rows = 0;  // M; of all groups together where these cut the rows
  int64_t steps = 0;
  int64_t columns = 0;
  int64_t batches = 1;
  ProductGroups groups = ProductGroups::kNone;
  GroupRows group_rows = {};  // of the batches, unless groups is kNone
  bool accumulate = false;
};

/// Input and Output are float or bfloat16. A group without steps gives zeros, or leaves C where it accumulates.
template <typename Input, typename Output>
void multiply_strided(const StridedProduct<Input, Output>& product, cudaStream_t stream);

}  // namespace deeptitan::cuda
