#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "kernels/router_options.h"
#include "ops/op_scope.h"

// Routing tokens to experts, and moving their rows. T tokens, D hidden, E experts, K experts a token,
// R rows in the order of the experts. A slot is one choice of one token: t * K + k.

namespace deeptitan {

/// What a router decided for T tokens.
struct Routing {
  Tensor expert_index;   // i32 [T, K], best first
  Tensor expert_weight;  // f32 [T, K]
  Tensor scores;         // f32 [T, E]
  Tensor counts;         // i32 [E]: tokens of each expert
};

/// Fills `routing` from fp32 logits; `bias` (undefined: none) only chooses. Kinds and ties:
/// kernels/cpu/router/router.h.
void route(ExecutionContext& ctx, const Routing& routing, const Tensor& logits /* f32 [T, E] */,
           const Tensor& bias /* f32 [E] */, const RouterOptions& options);

/// As route, but the experts are those already in routing.expert_index (a recorded forward).
void route_as_recorded(ExecutionContext& ctx, const Routing& routing, const Tensor& logits /* f32 [T, E] */,
                       const RouterOptions& options);

/// d_logits from the gradients of the weights and (undefined: none) of the scores.
void route_backward(ExecutionContext& ctx, const Tensor& d_logits /* f32 [T, E] */,
                    const Tensor& d_weight /* f32 [T, K] */, const Tensor& d_scores /* f32 [T, E] */,
                    const Routing& routing, const RouterOptions& options);

/// Adds the sequence-wise balance loss, times tokens, to *loss_sum (nullptr: not wanted), and its gradient times
/// *gradient_scale to d_scores (undefined: loss alone, no scale). Both numbers lie where the op runs. DeepSeek-V3
/// section 2.1.2.
void sequence_auxiliary_loss(ExecutionContext& ctx, double* loss_sum, const Tensor& d_scores /* f32 [T, E] */,
                             const Routing& routing, const Tensor& sequence_offset /* i32 [sequences + 1] */,
                             const RouterOptions& options, double alpha, const double* gradient_scale);

/// load[e] += counts[e]: what a step's microbatches bring to each expert.
void accumulate_counts(ExecutionContext& ctx, const Tensor& load /* i32 [E] */, const Tensor& counts /* i32 [E] */);

/// bias[e] += speed where expert e had less than the mean load of this step, -= speed where it had more (DeepSeek-V3
/// section 2.1.2). Nothing happens where the step is not valid.
void update_router_bias(ExecutionContext& ctx, const Tensor& bias /* f32 [E] */, const Tensor& load /* i32 [E] */,
                        double speed);

/// out = x for a contiguous tensor of any one dtype.
void copy(ExecutionContext& ctx, const Tensor& out, const Tensor& x);

/// Where the slots' rows lie once sorted by expert.
struct SlotOrder {
  Tensor row_of_slot;   // i32 [T * K]
  Tensor slot_of_row;   // i32 [R]
  Tensor group_offset;  // i32 [E + 1]
  Tensor group_size;    // i32 [E]
};

/// Sorts slots by expert; each expert's first row is a multiple of `alignment`. Where there are more rows than
/// slot_of_row has, no slot has one, and StepOutput::row_overflow says so.
void sort_slots(ExecutionContext& ctx, const SlotOrder& order, const Routing& routing, int alignment);

/// counts[e] = the slots that chose expert e.
void count_choices(ExecutionContext& ctx, const Tensor& counts /* i32 [E] */,
                   const Tensor& expert_index /* i32 [T, K] */);

/// Where rows that came from W ranks lie once sorted by expert: they come rank by rank, and of each rank expert by
/// expert, counts[w, e] of them. An expert's keep their order. Slots are the rows as they came; behind the last, both
/// maps say -1. Where more came than R, no slot has a row, and StepOutput::row_overflow says so.
void sort_received_rows(ExecutionContext& ctx, const SlotOrder& order /* of R rows and e experts */,
                        const Tensor& counts /* i32 [W, e] */);

/// out[r] = x[token of row r].
void permute_rows(ExecutionContext& ctx, const Tensor& out /* [R, D] */, const Tensor& x /* [T, D] */,
                  const SlotOrder& order);

/// out[t] = sum over k of weight[t, k] * y[row of slot (t, k)] + addend[t], in fp32, in the order of k. weight
/// undefined: ones; addend undefined: none (it may be out). With a residual, out[t] = residual[t] + that, which is
/// rounded first: the bits of add behind it.
void unpermute_rows(ExecutionContext& ctx, const Tensor& out /* [T, D] */, const Tensor& y /* [R, D] */,
                    const Tensor& weight /* f32 [T, K] */, const Tensor& addend /* [T, D] */,
                    const Tensor& residual /* [T, D], undefined: none */, const SlotOrder& order);

/// y's rows before offset[0] and from the last offset on = 0: those of experts that lie elsewhere.
void clear_rows_outside(ExecutionContext& ctx, const Tensor& y /* [R, D] */, const Tensor& offset /* i32 [e + 1] */);

/// The gradients of unpermute_rows with weights.
void unpermute_rows_backward(ExecutionContext& ctx, const Tensor& d_y /* [R, D] */,
                             const Tensor& d_weight /* f32 [T, K] */, const Tensor& d_out /* [T, D] */,
                             const Tensor& y /* [R, D] */, const Tensor& weight /* f32 [T, K] */,
                             const SlotOrder& order);

DT_OP_FORMS(route);
DT_OP_FORMS(route_as_recorded);
DT_OP_FORMS(route_backward);
DT_OP_FORMS(sequence_auxiliary_loss);
DT_OP_FORMS(accumulate_counts);
DT_OP_FORMS(update_router_bias);
DT_OP_FORMS(copy);
DT_OP_FORMS(sort_slots);
DT_OP_FORMS(count_choices);
DT_OP_FORMS(sort_received_rows);
DT_OP_FORMS(permute_rows);
DT_OP_FORMS(unpermute_rows);
DT_OP_FORMS(clear_rows_outside);
DT_OP_FORMS(unpermute_rows_backward);

}  // namespace deeptitan
