#pragma once

#include <cstdint>

#include "core/bfloat16.h"
#include "kernels/cpu/matmul/packing.h"
#include "kernels/group_rows.h"

// Matrix products of the CPU. Legend: M rows, N columns, K contracted length, G groups.
// Every product accumulates in fp32, in the order of K, whatever M is and whatever the number of threads:
// a row's result never depends on the rows beside it, so decoding one token gives the bits of a full forward.
// bf16 operands need an even K and even leading strides (two neighbours share a word).

namespace deeptitan::cpu {

/// Where a product goes and how: C = A * B or C += A * B, in fp32 or bf16.
template <typename Output>
struct MatmulOutput {
  Output* data;  // [M, N]
  int64_t ld;    // elements from row to row
  bool accumulate;
};

/// C[M, N] (+)= A[M, K] * B[K, N], B packed by pack_direct or pack_transposed with the operand type of A.
/// Input and Output are float or bfloat16.
template <typename Input, typename Output>
void matmul(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_b, int64_t rows,
            int64_t contracted, int64_t columns);

/// For each group g: C[rows of g, N] (+)= A[rows of g, K] * B_g[K, N], the same rows of A and C. The B_g follow one
/// another, packed_words(K, N) words each. Empty groups and padding cost nothing.
template <typename Input, typename Output>
void grouped_matmul(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_b,
                    const GroupRows& rows, int64_t contracted, int64_t columns);

/// Words of workspace for matmul_transposed and grouped_matmul_transposed.
int64_t transposed_workspace_words(OperandType type, int64_t contracted, int64_t columns);

/// matmul and grouped_matmul from the transpose of B [N, K], packed by pack_transposed(B) or pack_direct of it: the
/// operand of x W^T serves d_y W too. Some panels of B at a time are made in the workspace; the bits are matmul's.
template <typename Input, typename Output>
void matmul_transposed(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_bt, int64_t rows,
                       int64_t contracted, int64_t columns, uint32_t* workspace);
template <typename Input, typename Output>
void grouped_matmul_transposed(MatmulOutput<Output> c, const Input* a, int64_t lda, const uint32_t* packed_bt,
                               const GroupRows& rows, int64_t contracted, int64_t columns, uint32_t* workspace);

/// Words of workspace for weight_gradient and grouped_weight_gradient over `rows` rows, padding included, in `groups`
/// groups.
int64_t weight_gradient_workspace_words(int64_t rows, int64_t groups, int64_t out_columns, int64_t in_columns);

/// d_weight[N, K] += d_out[M, N]^T * x[M, K]: the gradient of the weight of y = x * weight^T. Without `accumulate` it
/// is written instead, zeros where there are no rows.
template <typename Input>
void weight_gradient(float* d_weight, const Input* d_out, int64_t ld_out, const Input* x, int64_t ld_x, int64_t rows,
                     int64_t out_columns, int64_t in_columns, uint32_t* workspace, bool accumulate = true);

/// For each group g: d_weight_g[N, K] += d_out[rows of g]^T * x[rows of g]; the d_weight_g follow one another.
template <typename Input>
void grouped_weight_gradient(float* d_weight, const Input* d_out, int64_t ld_out, const Input* x, int64_t ld_x,
                             const GroupRows& rows, int64_t out_columns, int64_t in_columns, uint32_t* workspace,
                             bool accumulate = true);

/// For each head h: C[:, h] = A[:, h] * B_h, where head h of a row begins h * head_stride elements in, and the B_h
/// follow one another, packed_words(K, N) words each.
template <typename Input, typename Output>
void matmul_by_head(Output* c, int64_t ldc, int64_t c_head_stride, const Input* a, int64_t lda, int64_t a_head_stride,
                    const uint32_t* packed_b, int64_t heads, int64_t rows, int64_t contracted, int64_t columns);

}  // namespace deeptitan::cpu
