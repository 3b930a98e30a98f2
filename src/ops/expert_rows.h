#pragma once

#include "core/execution_context.h"
#include "core/tensor.h"
#include "kernels/peer_exchange.h"
#include "ops/moe.h"
#include "ops/op_scope.h"

// Rows of tokens straight into the groups of experts on other ranks, and back, over memory that every rank's kernels
// reach (kernels/peer_exchange.h). T tokens, D hidden, K experts a token, e experts of this rank, R rows that each rank
// has room for. "In the window": in memory that lies at the same offset on all ranks. All ranks call the same ops in
// the same order.

namespace deeptitan {

/// place[t, k] = rank * R + row: where the row of a slot lies once every expert's rows follow one another on its rank,
/// those of rank 0 first; -1 everywhere where any rank has no room, which StepOutput::row_overflow says on all. The
/// groups are those of this rank's experts. When it is done no rank uses what it used before: their memory may be
/// pushed to.
void place_rows(ExecutionContext& ctx, const Tensor& place /* i32 [T, K] */,
                const Tensor& group_offset /* i32 [e + 1] */, const Tensor& group_size /* i32 [e] */,
                const Routing& routing, int64_t capacity, const PeerExchange& peers);

/// Returns (on the device) when all ranks are there: what any wrote before is there for all.
void meet_ranks(ExecutionContext& ctx, const PeerExchange& peers);

/// rows[place[t, k]] = x[t], and row_weight[place[t, k]] = weight[t, k] where there are weights.
void push_rows(ExecutionContext& ctx, const Tensor& rows /* [R, D], in the window */,
               const Tensor& row_weight /* f32 [R], in the window; undefined: none */, const Tensor& x /* [T, D] */,
               const Tensor& weight /* f32 [T, K]; undefined: none */, const Tensor& place /* i32 [T, K] */,
               const PeerExchange& peers);

/// out[t] = sum over k of weight[t, k] * rows[place[t, k]] + addend[t], in fp32, in the order of k. weight undefined:
/// ones; addend undefined: none (it may be out).
void pull_rows(ExecutionContext& ctx, const Tensor& out /* [T, D] */, const Tensor& rows /* [R, D], in the window */,
               const Tensor& weight /* f32 [T, K] */, const Tensor& addend /* [T, D] */,
               const Tensor& place /* i32 [T, K] */, const PeerExchange& peers);

/// out[t, k] = values[place[t, k]]; 0 where the slot has no row.
void pull_values(ExecutionContext& ctx, const Tensor& out /* f32 [T, K] */,
                 const Tensor& values /* f32 [R], in the window */, const Tensor& place /* i32 [T, K] */,
                 const PeerExchange& peers);

/// The gradients of weighted rows, for those of the groups: d_weight[r] = d_rows[r] . y[r], then d_rows[r] *=
/// weight[r].
void weight_rows_backward(ExecutionContext& ctx, const Tensor& d_rows /* [R, D] */,
                          const Tensor& d_weight /* f32 [R] */, const Tensor& y /* [R, D] */,
                          const Tensor& weight /* f32 [R] */, const Tensor& group_offset /* i32 [e + 1] */);

DT_OP_FORMS(place_rows);
DT_OP_FORMS(meet_ranks);
DT_OP_FORMS(push_rows);
DT_OP_FORMS(pull_rows);
DT_OP_FORMS(pull_values);
DT_OP_FORMS(weight_rows_backward);

}  // namespace deeptitan
