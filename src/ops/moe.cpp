#include "ops/moe.h"

#include <algorithm>

#include "core/error.h"

namespace deeptitan {
namespace {

void check_routing(const Routing& r, const RouterOptions& o) {
  const int64_t tokens = r.expert_index.size(0);
  check_tensor(r.expert_index, "routing: expert_index", DType::kI32, {tokens, o.top_k});
  check_tensor(r.expert_weight, "routing: expert_weight", DType::kF32, {tokens, o.top_k});
  check_tensor(r.scores, "routing: scores", DType::kF32, {tokens, o.experts});
  check_tensor(r.counts, "routing: counts", DType::kI32, {o.experts});
}

void check_order(const SlotOrder& order, int64_t tokens) {
  check_tensor(order.slot_of_row, "order: slot_of_row", DType::kI32, {-1});
  check_tensor(order.row_of_slot, "order: row_of_slot", DType::kI32, {-1});
  DT_CHECK(order.row_of_slot.size(0) % std::max<int64_t>(1, tokens) == 0,
           "order: {} slots are no whole number of each of {} tokens", order.row_of_slot.size(0), tokens);
}

// Experts a token; any where there are no tokens.
int64_t choices(const SlotOrder& order, int64_t tokens) {
  return tokens == 0 ? -1 : order.row_of_slot.size(0) / tokens;
}

}  // namespace

void route(ExecutionContext& ctx, const Routing& routing, const Tensor& logits, const Tensor& bias,
           const RouterOptions& options) {
  check_routing(routing, options);
  check_tensor(logits, "route: logits", DType::kF32, {routing.scores.size(0), options.experts});
  DT_CHECK(bias.defined() == options.bias, "route: the router {} a bias, but one was {}",
           options.bias ? "has" : "has not", bias.defined() ? "given" : "not given");
  if (bias.defined()) check_tensor(bias, "route: bias", DType::kF32, {options.experts});
  OpScope op(ctx, "route", {&routing.expert_weight, &routing.expert_index, &routing.scores, &routing.counts},
             {&logits, &bias});
  op.run_with_workspace(on_cpu::route, DT_ON_CUDA(route), routing, logits, bias, options);
}

void route_as_recorded(ExecutionContext& ctx, const Routing& routing, const Tensor& logits,
                       const RouterOptions& options) {
  check_routing(routing, options);
  check_tensor(logits, "route_as_recorded: logits", DType::kF32, {routing.scores.size(0), options.experts});
  OpScope op(ctx, "route_as_recorded", {&routing.expert_weight, &routing.scores, &routing.counts},
             {&logits, &routing.expert_index});
  op.run_with_workspace(on_cpu::route_as_recorded, DT_ON_CUDA(route_as_recorded), routing, logits, options);
}

void route_backward(ExecutionContext& ctx, const Tensor& d_logits, const Tensor& d_weight, const Tensor& d_scores,
                    const Routing& routing, const RouterOptions& options) {
  check_routing(routing, options);
  const int64_t tokens = routing.scores.size(0);
  check_tensor(d_logits, "route_backward: d_logits", DType::kF32, {tokens, options.experts});
  check_tensor(d_weight, "route_backward: d_weight", DType::kF32, {tokens, options.top_k});
  if (d_scores.defined()) check_tensor(d_scores, "route_backward: d_scores", DType::kF32, {tokens, options.experts});
  OpScope op(ctx, "route_backward", {&d_logits}, {&d_weight, &d_scores, &routing.scores, &routing.expert_index});
  op.run_with_workspace(on_cpu::route_backward, DT_ON_CUDA(route_backward), d_logits, d_weight, d_scores, routing,
                        options);
}

void sequence_auxiliary_loss(ExecutionContext& ctx, double* loss_sum, const Tensor& d_scores, const Routing& routing,
                             const Tensor& sequence_offset, const RouterOptions& options, double alpha,
                             const double* gradient_scale) {
  check_routing(routing, options);
  check_tensor(sequence_offset, "sequence_auxiliary_loss: sequence_offset", DType::kI32, {-1});
  if (d_scores.defined()) {
    check_tensor(d_scores, "sequence_auxiliary_loss: d_scores", DType::kF32, {routing.scores.size(0), options.experts});
  }
  OpScope op(ctx, "sequence_auxiliary_loss", {&d_scores}, {&routing.scores, &routing.expert_index, &sequence_offset});
  op.run_with_workspace(on_cpu::sequence_auxiliary_loss, DT_ON_CUDA(sequence_auxiliary_loss), loss_sum, d_scores,
                        routing, sequence_offset, options, alpha, gradient_scale);
}

void accumulate_counts(ExecutionContext& ctx, const Tensor& load, const Tensor& counts) {
  check_tensor(counts, "accumulate_counts: counts", DType::kI32, {-1});
  check_tensor(load, "accumulate_counts: load", DType::kI32, {counts.size(0)});
  OpScope op(ctx, "accumulate_counts", {&load}, {&counts});
  op.run_with_workspace(on_cpu::accumulate_counts, DT_ON_CUDA(accumulate_counts), load, counts);
}

void update_router_bias(ExecutionContext& ctx, const Tensor& bias, const Tensor& load, double speed) {
  check_tensor(load, "update_router_bias: load", DType::kI32, {-1});
  check_tensor(bias, "update_router_bias: bias", DType::kF32, {load.size(0)});
  OpScope op(ctx, "update_router_bias", {&bias}, {&load});
  op.run_with_workspace(on_cpu::update_router_bias, DT_ON_CUDA(update_router_bias), bias, load, speed);
}

void copy(ExecutionContext& ctx, const Tensor& out, const Tensor& x) {
  DT_CHECK(out.same_shape(x) && out.dtype() == x.dtype() && out.contiguous() && x.contiguous(), "copy: {} from {}",
           out.describe(), x.describe());
  OpScope op(ctx, "copy", {&out}, {&x});
  op.run_with_workspace(on_cpu::copy, DT_ON_CUDA(copy), out, x);
}

void sort_slots(ExecutionContext& ctx, const SlotOrder& order, const Routing& routing, int alignment) {
  check_tensor(routing.counts, "sort_slots: counts", DType::kI32, {-1});
  check_tensor(order.row_of_slot, "sort_slots: row_of_slot", DType::kI32, {routing.expert_index.numel()});
  check_tensor(order.slot_of_row, "sort_slots: slot_of_row", DType::kI32, {-1});
  check_tensor(order.group_offset, "sort_slots: group_offset", DType::kI32, {routing.counts.size(0) + 1});
  check_tensor(order.group_size, "sort_slots: group_size", DType::kI32, {routing.counts.size(0)});
  OpScope op(ctx, "sort_slots", {&order.row_of_slot, &order.slot_of_row, &order.group_offset, &order.group_size},
             {&routing.expert_index, &routing.counts});
  op.run_with_workspace(on_cpu::sort_slots, DT_ON_CUDA(sort_slots), order, routing, alignment);
}

void count_choices(ExecutionContext& ctx, const Tensor& counts, const Tensor& expert_index) {
  check_tensor(counts, "count_choices: counts", DType::kI32, {-1});
  check_tensor(expert_index, "count_choices: expert_index", DType::kI32, {-1, -1});
  check_contiguous("count_choices", {expert_index});
  OpScope op(ctx, "count_choices", {&counts}, {&expert_index});
  op.run(on_cpu::count_choices, DT_ON_CUDA(count_choices), counts, expert_index);
}

void sort_received_rows(ExecutionContext& ctx, const SlotOrder& order, const Tensor& counts) {
  check_tensor(counts, "sort_received_rows: counts", DType::kI32, {-1, -1});
  check_tensor(order.group_size, "sort_received_rows: group_size", DType::kI32, {counts.size(1)});
  check_tensor(order.slot_of_row, "sort_received_rows: slot_of_row", DType::kI32, {-1});
  check_tensor(order.row_of_slot, "sort_received_rows: row_of_slot", DType::kI32, {order.slot_of_row.size(0)});
  check_tensor(order.group_offset, "sort_received_rows: group_offset", DType::kI32, {counts.size(1) + 1});
  check_contiguous("sort_received_rows", {counts});
  OpScope op(ctx, "sort_received_rows",
             {&order.row_of_slot, &order.slot_of_row, &order.group_offset, &order.group_size}, {&counts});
  op.run(on_cpu::sort_received_rows, DT_ON_CUDA(sort_received_rows), order, counts);
}

void permute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const SlotOrder& order) {
  check_activation_type("permute_rows: x", x);
  check_order(order, x.size(0));
  check_tensor(out, "permute_rows: out", x.dtype(), {order.slot_of_row.size(0), x.size(1)});
  check_contiguous("permute_rows", {out, x});
  OpScope op(ctx, "permute_rows", {&out}, {&x, &order.row_of_slot, &order.slot_of_row});
  op.run_with_workspace(on_cpu::permute_rows, DT_ON_CUDA(permute_rows), out, x, order);
}

void unpermute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& y, const Tensor& weight,
                    const Tensor& addend, const Tensor& residual, const SlotOrder& order) {
  check_activation_type("unpermute_rows: y", y);
  check_order(order, out.size(0));
  check_tensor(y, "unpermute_rows: y", y.dtype(), {order.slot_of_row.size(0), -1});
  check_tensor(out, "unpermute_rows: out", y.dtype(), {-1, y.size(1)});
  if (weight.defined()) {
    check_tensor(weight, "unpermute_rows: weight", DType::kF32, {out.size(0), choices(order, out.size(0))});
  }
  if (addend.defined()) check_tensor(addend, "unpermute_rows: addend", y.dtype(), {out.size(0), out.size(1)});
  if (residual.defined()) check_tensor(residual, "unpermute_rows: residual", y.dtype(), {out.size(0), out.size(1)});
  check_contiguous("unpermute_rows", {out, y, weight, addend, residual});
  OpScope op(ctx, "unpermute_rows", {&out}, {&y, &weight, &addend, &residual, &order.row_of_slot});
  op.run_with_workspace(on_cpu::unpermute_rows, DT_ON_CUDA(unpermute_rows), out, y, weight, addend, residual, order);
}

void clear_rows_outside(ExecutionContext& ctx, const Tensor& y, const Tensor& offset) {
  check_activation_type("clear_rows_outside: y", y);
  check_tensor(y, "clear_rows_outside: y", y.dtype(), {-1, -1});
  check_tensor(offset, "clear_rows_outside: offset", DType::kI32, {-1});
  check_contiguous("clear_rows_outside", {y, offset});
  OpScope op(ctx, "clear_rows_outside", {&y}, {&offset});
  op.run(on_cpu::clear_rows_outside, DT_ON_CUDA(clear_rows_outside), y, offset);
}

void unpermute_rows_backward(ExecutionContext& ctx, const Tensor& d_y, const Tensor& d_weight, const Tensor& d_out,
                             const Tensor& y, const Tensor& weight, const SlotOrder& order) {
  check_activation_type("unpermute_rows_backward: y", y);
  check_order(order, d_out.size(0));
  check_tensor(y, "unpermute_rows_backward: y", y.dtype(), {order.slot_of_row.size(0), -1});
  check_tensor(d_y, "unpermute_rows_backward: d_y", y.dtype(), {y.size(0), y.size(1)});
  check_tensor(d_out, "unpermute_rows_backward: d_out", y.dtype(), {-1, y.size(1)});
  check_tensor(weight, "unpermute_rows_backward: weight", DType::kF32, {d_out.size(0), choices(order, d_out.size(0))});
  check_tensor(d_weight, "unpermute_rows_backward: d_weight", DType::kF32, {weight.size(0), weight.size(1)});
  check_contiguous("unpermute_rows_backward", {d_y, d_weight, d_out, y, weight});
  OpScope op(ctx, "unpermute_rows_backward", {&d_y, &d_weight},
             {&d_out, &y, &weight, &order.row_of_slot, &order.slot_of_row});
  op.run_with_workspace(on_cpu::unpermute_rows_backward, DT_ON_CUDA(unpermute_rows_backward), d_y, d_weight, d_out, y,
                        weight, order);
}

}  // namespace deeptitan
