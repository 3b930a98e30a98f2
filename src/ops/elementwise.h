#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/op_scope.h"
#include "ops/row_groups.h"

namespace deeptitan {

/// out = a + b, contiguous and of one shape; out may be a or b.
void add(ExecutionContext& ctx, const Tensor& out, const Tensor& a, const Tensor& b);

/// out = x, rounded or widened to out's dtype (f32 or bf16); [rows, columns], either may be a slice of columns.
void convert(ExecutionContext& ctx, const Tensor& out, const Tensor& x);

/// x = 0, contiguous, of any dtype, in whole words of four bytes.
void fill_zero(ExecutionContext& ctx, const Tensor& x);

/// out = silu(gate) * up: the gated activation of DeepSeek's MLPs. gate and up are slices [T, I] of one buffer.
void swiglu(ExecutionContext& ctx, const Tensor& out /* [T, I] */, const Tensor& gate /* [T, I] */,
            const Tensor& up /* [T, I] */);

/// Its gradients. d_gate and d_up are slices of one buffer; they may be gate and up.
void swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate /* [T, I] */, const Tensor& d_up /* [T, I] */,
                     const Tensor& d_out /* [T, I] */, const Tensor& gate /* [T, I] */, const Tensor& up /* [T, I] */);

/// The same for rows in groups alone.
void grouped_swiglu(ExecutionContext& ctx, const Tensor& out /* [R, I] */, const Tensor& gate /* [R, I] */,
                    const Tensor& up /* [R, I] */, const RowGroups& groups);
void grouped_swiglu_backward(ExecutionContext& ctx, const Tensor& d_gate /* [R, I] */, const Tensor& d_up /* [R, I] */,
                             const Tensor& d_out /* [R, I] */, const Tensor& gate /* [R, I] */,
                             const Tensor& up /* [R, I] */, const RowGroups& groups);

/// out[t] = table[ids[t]], converted to out's dtype. Throws where an id is not a row of the table.
void embedding(ExecutionContext& ctx, const Tensor& out /* [T, D] */, const Tensor& table /* [V, D] */,
               const Tensor& ids /* i32 [T] */);

/// d_table[ids[t]] += d_out[t], in the order of the tokens.
void embedding_backward(ExecutionContext& ctx, const Tensor& d_table /* f32 [V, D] */, const Tensor& d_out /* [T, D] */,
                        const Tensor& ids /* i32 [T] */);

DT_OP_FORMS(add);
DT_OP_FORMS(convert);
DT_OP_FORMS(fill_zero);
DT_OP_FORMS(swiglu);
DT_OP_FORMS(swiglu_backward);
DT_OP_FORMS(grouped_swiglu);
DT_OP_FORMS(grouped_swiglu_backward);
DT_OP_FORMS(embedding);
DT_OP_FORMS(embedding_backward);

}  // namespace deeptitan
