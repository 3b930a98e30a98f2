#include "ops/moe.h"

#include <cstring>

#include "core/error.h"
#include "kernels/cpu/permute/permute.h"
#include "kernels/cpu/router/balance.h"
#include "kernels/cpu/router/router.h"
#include "ops/op_scope.h"
#ifdef DT_CUDA
#include "ops/cuda/ops.h"
#endif

namespace deeptitan {
namespace {

void check_routing(const Routing& r, const RouterOptions& o) {
  const int64_t tokens = r.expert_index.size(0);
  check_tensor(r.expert_index, "expert_index", DType::kI32, {tokens, o.top_k});
  check_tensor(r.expert_weight, "expert_weight", DType::kF32, {tokens, o.top_k});
  check_tensor(r.scores, "scores", DType::kF32, {tokens, o.experts});
  check_tensor(r.counts, "counts", DType::kI32, {o.experts});
}

RowMap row_map(const SlotOrder& order, int64_t tokens) {
  return {.row_of_slot = order.row_of_slot.host<int32_t>(),
          .slot_of_row = order.slot_of_row.host<int32_t>(),
          .tokens = tokens,
          .rows = order.slot_of_row.size(0),
          .top_k = tokens == 0 ? 0 : static_cast<int>(order.row_of_slot.size(0) / tokens)};
}

}  // namespace

void route(ExecutionContext& ctx, const Routing& routing, const Tensor& logits, const Tensor& bias,
           const RouterOptions& options) {
  check_routing(routing, options);
  check_tensor(logits, "logits", DType::kF32, {routing.scores.size(0), options.experts});
  DT_CHECK(bias.defined() == options.bias, "route: the router {} a bias, but one was {}",
           options.bias ? "has" : "has not", bias.defined() ? "given" : "not given");
  if (bias.defined()) check_tensor(bias, "bias", DType::kF32, {options.experts});
  OpScope op(ctx, "route", 0);
  DT_LEAVE_FOR_CUDA(route, routing, logits, bias, options);
  if (!op.launch()) return;
  cpu::route_tokens(routing.expert_index.host<int32_t>(), routing.expert_weight.host<float>(),
                    routing.scores.host<float>(), routing.counts.host<int32_t>(), logits.host<float>(),
                    data_or_null(bias), logits.size(0), options);
  op.check({routing.expert_weight});
}

void route_as_recorded(ExecutionContext& ctx, const Routing& routing, const Tensor& logits,
                       const RouterOptions& options) {
  check_routing(routing, options);
  OpScope op(ctx, "route", 0);
  DT_LEAVE_FOR_CUDA(route_as_recorded, routing, logits, options);
  if (!op.launch()) return;
  cpu::route_tokens_to_given_experts(routing.expert_weight.host<float>(), routing.scores.host<float>(),
                                     routing.counts.host<int32_t>(), logits.host<float>(),
                                     routing.expert_index.host<int32_t>(), logits.size(0), options);
  op.check({routing.expert_weight});
}

void route_backward(ExecutionContext& ctx, const Tensor& d_logits, const Tensor& d_weight, const Tensor& d_scores,
                    const Routing& routing, const RouterOptions& options) {
  check_routing(routing, options);
  OpScope op(ctx, "route_backward", 0);
  DT_LEAVE_FOR_CUDA(route_backward, d_logits, d_weight, d_scores, routing, options);
  if (!op.launch()) return;
  cpu::route_tokens_backward(d_logits.host<float>(), d_weight.host<float>(), data_or_null(d_scores),
                             routing.scores.host<float>(), routing.expert_index.host<int32_t>(), d_logits.size(0),
                             options);
  op.check({d_logits});
}

void sequence_auxiliary_loss(ExecutionContext& ctx, double* loss_sum, const Tensor& d_scores, const Routing& routing,
                             const Tensor& sequence_offset, const RouterOptions& options, double alpha,
                             const double* gradient_scale) {
  check_routing(routing, options);
  OpScope op(ctx, "sequence_auxiliary_loss", 0);
  DT_LEAVE_FOR_CUDA(sequence_auxiliary_loss, loss_sum, d_scores, routing, sequence_offset, options, alpha,
                    gradient_scale);
  if (!op.launch()) return;
  cpu::sequence_auxiliary_loss(
      loss_sum, data_or_null(d_scores), routing.scores.host<float>(), routing.expert_index.host<int32_t>(),
      SequenceOffsets{sequence_offset.host<int32_t>(), sequence_offset.size(0) - 1}, options,
      AuxiliaryLossScale{static_cast<float>(alpha), d_scores.defined() ? static_cast<float>(*gradient_scale) : 0.0f});
}

void accumulate_counts(ExecutionContext& ctx, const Tensor& load, const Tensor& counts) {
  check_tensor(load, "load", DType::kI32, {counts.size(0)});
  OpScope op(ctx, "accumulate_counts", 0);
  DT_LEAVE_FOR_CUDA(accumulate_counts, load, counts);
  if (op.launch()) cpu::accumulate_counts(load.host<int32_t>(), counts.host<int32_t>(), counts.size(0));
}

void update_router_bias(ExecutionContext& ctx, const Tensor& bias, const Tensor& load, double speed) {
  check_tensor(bias, "bias", DType::kF32, {load.size(0)});
  OpScope op(ctx, "update_router_bias", 0);
  DT_LEAVE_FOR_CUDA(update_router_bias, bias, load, speed);
  if (!op.launch() || ctx.state->out.valid == 0) return;
  cpu::update_router_bias(bias.host<float>(), load.host<int32_t>(), load.size(0), static_cast<float>(speed));
}

void copy(ExecutionContext& ctx, const Tensor& out, const Tensor& x) {
  DT_CHECK(out.same_shape(x) && out.dtype() == x.dtype() && out.contiguous() && x.contiguous(), "copy: {} from {}",
           out.describe(), x.describe());
  OpScope op(ctx, "copy", 0);
  DT_LEAVE_FOR_CUDA(copy, out, x);
  if (op.launch()) std::memcpy(out.raw(), x.raw(), x.bytes());
}

void sort_slots(ExecutionContext& ctx, const SlotOrder& order, const Routing& routing) {
  const int64_t slots = routing.expert_index.numel();
  const int64_t experts = routing.counts.size(0);
  check_tensor(order.row_of_slot, "row_of_slot", DType::kI32, {slots});
  check_tensor(order.group_offset, "group_offset", DType::kI32, {experts + 1});
  OpScope op(ctx, "sort_slots", 0);
  DT_LEAVE_FOR_CUDA(sort_slots, order, routing);
  if (!op.launch()) return;
  cpu::sort_slots(order.row_of_slot.host<int32_t>(), order.slot_of_row.host<int32_t>(),
                  order.group_offset.host<int32_t>(), routing.expert_index.host<int32_t>(),
                  routing.counts.host<int32_t>(),
                  SlotSortShape{.slots = slots,
                                .experts = static_cast<int>(experts),
                                .alignment = 1,
                                .row_capacity = order.slot_of_row.size(0)});
}

void permute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const SlotOrder& order) {
  check_tensor(out, "out", x.dtype(), {order.slot_of_row.size(0), x.size(1)});
  check_contiguous("permute_rows", {out, x});
  OpScope op(ctx, "permute_rows", 0);
  DT_LEAVE_FOR_CUDA(permute_rows, out, x, order);
  if (!op.launch()) return;
  for_activation_type("permute_rows", x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::permute_rows(out.host<T>(), x.host<T>(), row_map(order, x.size(0)), x.size(1));
  });
  op.check({out});
}

void unpermute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& y, const Tensor& weight,
                    const Tensor& addend, const SlotOrder& order) {
  check_tensor(out, "out", y.dtype(), {-1, y.size(1)});
  check_contiguous("unpermute_rows", {out, y, weight, addend});
  OpScope op(ctx, "unpermute_rows", 0);
  DT_LEAVE_FOR_CUDA(unpermute_rows, out, y, weight, addend, order);
  if (!op.launch()) return;
  for_activation_type("unpermute_rows", y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::unpermute_rows(out.host<T>(), y.host<T>(), data_or_null(weight), addend.defined() ? addend.host<T>() : nullptr,
                        row_map(order, out.size(0)), out.size(1));
  });
  op.check({out});
}

void unpermute_rows_backward(ExecutionContext& ctx, const Tensor& d_y, const Tensor& d_weight, const Tensor& d_out,
                             const Tensor& y, const Tensor& weight, const SlotOrder& order) {
  check_tensor(d_y, "d_y", y.dtype(), {y.size(0), y.size(1)});
  check_tensor(d_out, "d_out", y.dtype(), {-1, y.size(1)});
  check_contiguous("unpermute_rows_backward", {d_y, d_weight, d_out, y, weight});
  OpScope op(ctx, "unpermute_rows_backward", 0);
  DT_LEAVE_FOR_CUDA(unpermute_rows_backward, d_y, d_weight, d_out, y, weight, order);
  if (!op.launch()) return;
  for_activation_type("unpermute_rows_backward", y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::unpermute_rows_backward(d_y.host<T>(), d_weight.host<float>(), d_out.host<T>(), y.host<T>(),
                                 weight.host<float>(), row_map(order, d_out.size(0)), y.size(1));
  });
  op.check({d_y, d_weight});
}

}  // namespace deeptitan
