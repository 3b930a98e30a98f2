#pragma once

#include <functional>

#include "ops/cuda/ops.h"
#include "ops/linear.h"

// Products of each expert's rows on Hopper's tensor cores (kernels/cuda/grouped_gemm), where these take the operands.

namespace deeptitan::on_cuda {

/// Which form a grouped product takes. DEEPTITAN_CUDA_PRINT=1 prints each choice once.
struct GroupedForm {
  bool tensor_cores = false;
  const char* reason = "";  // why not
};
GroupedForm choose_grouped_form(const Tensor& out, const Tensor& x, int64_t outputs, int64_t inputs);

/// out (+)= x W^T, or backward x W, for each group's rows. What is not dense, or is added to, goes through workspace.
void multiply_on_tensor_cores(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                              bool backward, const RowGroups& groups, bool accumulate);

/// Experts' products by a strategy that was asked for by name: out = x W^T for each group's rows, whose activations fp8
/// quantises on the way.
void multiply_by_strategy(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                          const RowGroups& groups);

/// Quantises a group of an fp8 weight, which `fill` writes in bf16 [N, K].
void quantize_group(ExecutionContext& ctx, const PreparedWeight& weight, int64_t group,
                    const std::function<void(bfloat16* to)>& fill);

/// d_weight = d_out^T x, or d_weight += d_out^T x, for each group's rows.
void weight_gradient_on_tensor_cores(ExecutionContext& ctx, const Tensor& d_weight, const Tensor& d_out,
                                     const Tensor& x, const RowGroups& groups, bool accumulate);
void weight_gradient_of_both_on_tensor_cores(ExecutionContext& ctx, const Tensor& d_weight,
                                             const GroupedOperands& first, const GroupedOperands& second,
                                             bool accumulate);

}  // namespace deeptitan::on_cuda
