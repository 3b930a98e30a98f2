#pragma once

#include <optional>
#include <span>
#include <vector>

#include "core/execution_context.h"
#include "core/tensor.h"
#include "ops/op_scope.h"
#include "ops/row_groups.h"
#include "ops/weight_format.h"

// Matrix products with weights. Legend: M rows, N outputs, K inputs, G groups (experts, or heads).

namespace deeptitan {

/// Where d_x = d_y W gets its operand from.
enum class BackwardLayout {
  kNone,     // it is not wanted
  kKept,     // it is laid out beside that of y = x W^T
  kDerived,  // it is made from that of y = x W^T for each product, some panels at a time: half the memory
};

/// What the products want instead of a weight as it is stored: in a format, rounded and laid out for the kernels. A
/// weight is a stack of G matrices [N, K] (G = 1 for an ordinary linear layer).
struct PreparedWeight {
  int64_t groups = 1;               // G
  int64_t outputs = 0;              // N
  int64_t inputs = 0;               // K
  DType activations = DType::kF32;  // that it multiplies: what the format is chosen by, for the arena's device
  bool for_forward = true;          // y = x W^T is wanted
  BackwardLayout backward_layout = BackwardLayout::kNone;
  /// Of experts: how a GPU is to multiply them; without one, by what there is for their operands.
  std::optional<GroupedGemmStrategy> strategy = {};
  WeightFormat format = WeightFormat::kPanelsF32;
  Tensor forward;         // what the format makes of it for y = x W^T
  Tensor scales;          // f32, of fp8: [G, blocks of N, blocks of K] or [G, N]
  Tensor backward_input;  // the same for d_x = d_y W, where it is kept; of formats that serve both, the same memory
};

/// Whether this processor multiplies bf16 natively: what a compute dtype "auto" follows.
bool bfloat16_is_native();

/// The strategies by which a device can multiply experts: none on the CPU, which has one way.
std::vector<GroupedGemmStrategy> expert_strategies(Device device);

/// Chooses the format, and takes the memory of `weight.forward` and `weight.backward_input` from the arena. Throws a
/// usage error, which lists what there is, where weight.strategy is not to be had on the device or for these sizes.
void plan_prepared_weight(PreparedWeight& weight, Arena& arena);

/// Takes from the workspace, while planning, what prepare_weight takes there.
void plan_preparing(ExecutionContext& ctx, const PreparedWeight& weight);

/// Fills groups of them, from `first_group` on: once after loading, and after each optimizer step where there is a
/// master. `rows` are matrices of K columns, fp32 or bf16, that may lie anywhere; as many of them under one another
/// make a group as have N rows.
void prepare_weight(ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group, std::span<const Tensor> rows);

/// An e4m3 matrix [n, K] with an fp32 scale for each of its 128 x 128 blocks, as checkpoints have it, in the host's
/// memory.
struct BlockQuantized {
  Tensor elements;  // f8_e4m3 [n, K]
  Tensor scales;    // f32 [ceil(n / 128), ceil(K / 128)]
};

/// Whether such matrices, as many as make one group, are what the format holds: they need no other words.
bool takes_as_stored(const PreparedWeight& weight, std::span<const BlockQuantized> group);

/// As prepare_weight, of matrices that takes_as_stored.
void prepare_weight_as_stored(ExecutionContext& ctx, PreparedWeight& weight, int64_t first_group,
                              std::span<const BlockQuantized> rows);

/// out[M, N] = x W^T, or out += x W^T. The format says which types of x and out exist.
void linear(ExecutionContext& ctx, const Tensor& out /* [M, N] */, const Tensor& x /* [M, K] */,
            const PreparedWeight& weight, bool accumulate = false);

/// out = x W^T of rows in bf16 and a weight in fp32, which an fp32 product multiplies: what convert and linear give one
/// after the other, bit for bit, in one launch. False, and nothing is done, where the device has no form for these
/// sizes and types: then run those.
bool widened_linear(ExecutionContext& ctx, const Tensor& out /* f32 [M, N] */, const Tensor& x /* bf16 [M, K] */,
                    const PreparedWeight& weight);

/// Two products of one x: in one launch where the device has that for these sizes.
void linear_twice(ExecutionContext& ctx, const Tensor& out /* [M, N] */, const PreparedWeight& weight,
                  const Tensor& other_out /* [M, N'] */, const PreparedWeight& other, const Tensor& x /* [M, K] */);

/// d_x[M, K] = d_out W, or d_x += d_out W.
void linear_backward_input(ExecutionContext& ctx, const Tensor& d_x /* [M, K] */, const Tensor& d_out /* [M, N] */,
                           const PreparedWeight& weight, bool accumulate = false);

/// d_weight[N, K] += d_out^T x, in fp32; = without `accumulate`.
void linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight /* f32 [N, K] */,
                            const Tensor& d_out /* [M, N] */, const Tensor& x /* [M, K] */, bool accumulate);

/// The same for rows in groups: those of group g meet W_g. Empty groups and padding cost nothing, but for the zeros of
/// a weight gradient that is not accumulated.
void grouped_linear(ExecutionContext& ctx, const Tensor& out /* [M, N] */, const Tensor& x /* [M, K] */,
                    const PreparedWeight& weight, const RowGroups& groups);
/// out = SwiGLU of x W^T, of whose N rows the first half are a gate's: what grouped_linear and grouped_swiglu give one
/// after the other, bit for bit, in one launch. False, and nothing is done, where the device has no form for these
/// sizes and types: then run those.
bool grouped_gate_up(ExecutionContext& ctx, const Tensor& out /* [M, N / 2] */, const Tensor& x /* [M, K] */,
                     const PreparedWeight& weight, const RowGroups& groups);
void grouped_linear_backward_input(ExecutionContext& ctx, const Tensor& d_x /* [M, K] */,
                                   const Tensor& d_out /* [M, N] */, const PreparedWeight& weight,
                                   const RowGroups& groups, bool accumulate = false);
void grouped_linear_backward_weight(ExecutionContext& ctx, const Tensor& d_weight /* f32 [G, N, K] */,
                                    const Tensor& d_out /* [M, N] */, const Tensor& x /* [M, K] */,
                                    const RowGroups& groups, bool accumulate);

/// What a weight gradient over groups is made of.
struct GroupedOperands {
  Tensor d_out;  // [M, N]
  Tensor x;      // [M, K]
  RowGroups groups;
};

/// The same of the rows of `first` and then of `second`, whose gradients a GPU's tensor cores add up before they touch
/// d_weight; elsewhere one after the other.
void grouped_linear_backward_weight_of_both(ExecutionContext& ctx, const Tensor& d_weight /* f32 [G, N, K] */,
                                            const GroupedOperands& first, const GroupedOperands& second,
                                            bool accumulate);

/// out[r, :] += bias, and its gradient d_bias += (or =) sum over rows of d_out, in the order of the rows.
void add_bias(ExecutionContext& ctx, const Tensor& out /* [M, N] */, const Tensor& bias /* f32 [N] */);
void add_bias_backward(ExecutionContext& ctx, const Tensor& d_bias /* f32 [N] */, const Tensor& d_out /* [M, N] */,
                       bool accumulate);

/// x W^T, or with `backward` x W, of a weight that has been prepared for it; over groups of rows where these are
/// defined: the forms behind linear and grouped_linear.
using ProductForm = void(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                         bool backward, const RowGroups& groups, bool accumulate);
namespace on_cpu {
ProductForm product;
decltype(deeptitan::plan_prepared_weight) plan_prepared_weight;
}  // namespace on_cpu
namespace on_cuda {
ProductForm product;
bool widened_linear_fits(const Tensor& out, const Tensor& x, const PreparedWeight& weight);
void widened_linear(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight);
bool linear_twice_fits(const Tensor& out, const PreparedWeight& weight, const Tensor& other_out,
                       const PreparedWeight& other, const Tensor& x);
decltype(deeptitan::linear_twice) linear_twice;
bool grouped_gate_up_fits(const Tensor& out, const Tensor& x, const PreparedWeight& weight);
void grouped_gate_up(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const PreparedWeight& weight,
                     const RowGroups& groups);
decltype(deeptitan::plan_prepared_weight) plan_prepared_weight;
decltype(deeptitan::plan_preparing) plan_preparing;
decltype(deeptitan::expert_strategies) expert_strategies;
decltype(deeptitan::prepare_weight_as_stored) prepare_weight_as_stored;
}  // namespace on_cuda
DT_OP_FORMS(prepare_weight);
DT_OP_FORMS(linear_backward_weight);
DT_OP_FORMS(grouped_linear_backward_weight);
DT_OP_FORMS(grouped_linear_backward_weight_of_both);
DT_OP_FORMS(add_bias);
DT_OP_FORMS(add_bias_backward);

}  // namespace deeptitan
