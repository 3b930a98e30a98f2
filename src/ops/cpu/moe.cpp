#include "ops/moe.h"

#include <cstring>

#include "core/error.h"
#include "kernels/cpu/permute/permute.h"
#include "kernels/cpu/router/balance.h"
#include "kernels/cpu/router/router.h"

namespace deeptitan::on_cpu {
namespace {

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
  if (ctx.planning) return;
  cpu::route_tokens(routing.expert_index.host<int32_t>(), routing.expert_weight.host<float>(),
                    routing.scores.host<float>(), routing.counts.host<int32_t>(), logits.host<float>(),
                    host_or_null(bias), logits.size(0), options);
}

void route_as_recorded(ExecutionContext& ctx, const Routing& routing, const Tensor& logits,
                       const RouterOptions& options) {
  if (ctx.planning) return;
  cpu::route_tokens_to_given_experts(routing.expert_weight.host<float>(), routing.scores.host<float>(),
                                     routing.counts.host<int32_t>(), logits.host<float>(),
                                     routing.expert_index.host<int32_t>(), logits.size(0), options);
}

void route_backward(ExecutionContext& ctx, const Tensor& d_logits, const Tensor& d_weight, const Tensor& d_scores,
                    const Routing& routing, const RouterOptions& options) {
  if (ctx.planning) return;
  cpu::route_tokens_backward(d_logits.host<float>(), d_weight.host<float>(), host_or_null(d_scores),
                             routing.scores.host<float>(), routing.expert_index.host<int32_t>(), d_logits.size(0),
                             options);
}

void sequence_auxiliary_loss(ExecutionContext& ctx, double* loss_sum, const Tensor& d_scores, const Routing& routing,
                             const Tensor& sequence_offset, const RouterOptions& options, double alpha,
                             const double* gradient_scale) {
  if (ctx.planning) return;
  cpu::sequence_auxiliary_loss(
      loss_sum, host_or_null(d_scores), routing.scores.host<float>(), routing.expert_index.host<int32_t>(),
      SequenceOffsets{sequence_offset.host<int32_t>(), sequence_offset.size(0) - 1}, options,
      AuxiliaryLossScale{static_cast<float>(alpha), d_scores.defined() ? static_cast<float>(*gradient_scale) : 0.0f});
}

void accumulate_counts(ExecutionContext& ctx, const Tensor& load, const Tensor& counts) {
  if (ctx.planning) return;
  cpu::accumulate_counts(load.host<int32_t>(), counts.host<int32_t>(), counts.size(0));
}

void update_router_bias(ExecutionContext& ctx, const Tensor& bias, const Tensor& load, double speed) {
  if (ctx.planning || ctx.state->out.valid == 0) return;
  cpu::update_router_bias(bias.host<float>(), load.host<int32_t>(), load.size(0), static_cast<float>(speed));
}

void copy(ExecutionContext& ctx, const Tensor& out, const Tensor& x) {
  if (ctx.planning) return;
  std::memcpy(out.raw(), x.raw(), x.bytes());
}

void sort_slots(ExecutionContext& ctx, const SlotOrder& order, const Routing& routing, int alignment) {
  if (ctx.planning) return;
  const SlotSortShape shape{.slots = routing.expert_index.numel(),
                            .experts = static_cast<int>(routing.counts.size(0)),
                            .alignment = alignment,
                            .row_capacity = order.slot_of_row.size(0)};
  DT_CHECK(ctx.state != nullptr || shape.row_capacity >= cpu::max_sorted_rows(shape.slots, shape.experts, alignment),
           "sort_slots: room for {} rows, and nowhere to say that {} slots did not fit", shape.row_capacity,
           shape.slots);
  int32_t overflow = 0;
  cpu::sort_slots_that_fit(order.row_of_slot.host<int32_t>(), order.slot_of_row.host<int32_t>(),
                           order.group_offset.host<int32_t>(), order.group_size.host<int32_t>(), &overflow,
                           routing.expert_index.host<int32_t>(), routing.counts.host<int32_t>(), shape);
  if (overflow != 0) ctx.state->out.row_overflow = 1;
}

void count_choices(ExecutionContext& /*ctx*/, const Tensor& counts, const Tensor& expert_index) {
  cpu::count_choices(counts.host<int32_t>(), counts.size(0), expert_index.host<int32_t>(), expert_index.numel());
}

void sort_received_rows(ExecutionContext& ctx, const SlotOrder& order, const Tensor& counts) {
  cpu::sort_received_rows(order.row_of_slot.host<int32_t>(), order.slot_of_row.host<int32_t>(),
                          order.group_offset.host<int32_t>(), order.group_size.host<int32_t>(),
                          &ctx.state->out.row_overflow, counts.host<int32_t>(),
                          {.ranks = counts.size(0), .experts = counts.size(1), .rows = order.slot_of_row.size(0)});
}

void permute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const SlotOrder& order) {
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::permute_rows(out.host<T>(), x.host<T>(), row_map(order, x.size(0)), x.size(1));
  });
}

void unpermute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& y, const Tensor& weight,
                    const Tensor& addend, const Tensor& residual, const SlotOrder& order) {
  if (ctx.planning) return;
  for_activation_type(y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::unpermute_rows(out.host<T>(), y.host<T>(), host_or_null(weight), addend.defined() ? addend.host<T>() : nullptr,
                        residual.defined() ? residual.host<T>() : nullptr, row_map(order, out.size(0)), out.size(1));
  });
}

void clear_rows_outside(ExecutionContext& /*ctx*/, const Tensor& y, const Tensor& offset) {
  const int64_t begin = offset.host<int32_t>()[0], end = offset.host<int32_t>()[offset.size(0) - 1];
  const auto row_bytes = y.row_numel() * static_cast<int64_t>(dtype_size(y.dtype()));
  auto* const rows = static_cast<char*>(y.raw());
  std::memset(rows, 0, begin * row_bytes);
  std::memset(rows + end * row_bytes, 0, (y.size(0) - end) * row_bytes);
}

void unpermute_rows_backward(ExecutionContext& ctx, const Tensor& d_y, const Tensor& d_weight, const Tensor& d_out,
                             const Tensor& y, const Tensor& weight, const SlotOrder& order) {
  if (ctx.planning) return;
  for_activation_type(y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::unpermute_rows_backward(d_y.host<T>(), d_weight.host<float>(), d_out.host<T>(), y.host<T>(),
                                 weight.host<float>(), row_map(order, d_out.size(0)), y.size(1));
  });
}

}  // namespace deeptitan::on_cpu
