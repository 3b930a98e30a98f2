#include "core/cuda_device.h"
#include "kernels/cuda/permute/permute.h"
#include "kernels/cuda/router/balance.h"
#include "kernels/cuda/router/router.h"
#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {
namespace {

RowMap row_map(const SlotOrder& order, int64_t tokens) {
  return {.row_of_slot = order.row_of_slot.raw<int32_t>(),
          .slot_of_row = order.slot_of_row.raw<int32_t>(),
          .tokens = tokens,
          .rows = order.slot_of_row.size(0),
          .top_k = tokens == 0 ? 1 : static_cast<int>(order.row_of_slot.size(0) / tokens)};
}

/// Workspace of the router, zero as it wants it; null where so few tokens need none.
void* router_workspace(ExecutionContext& ctx, ArenaScope& workspace, int64_t tokens) {
  if (cuda::route_in_one_block(tokens)) return nullptr;
  void* scratch = workspace.take_bytes(static_cast<int64_t>(cuda::kRouterWorkspaceBytes));
  if (!ctx.planning) cuda::clear_router_workspace(scratch, stream_of(ctx));
  return scratch;
}

}  // namespace

void route(ExecutionContext& ctx, const Routing& routing, const Tensor& logits, const Tensor& bias,
           const RouterOptions& options) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = router_workspace(ctx, workspace, logits.size(0));
  if (ctx.planning) return;
  cuda::route_tokens(routing.expert_index.raw<int32_t>(), routing.expert_weight.raw<float>(),
                     routing.scores.raw<float>(), routing.counts.raw<int32_t>(), logits.raw<float>(),
                     raw_or_null<float>(bias), logits.size(0), options, scratch, stream_of(ctx));
}

void route_as_recorded(ExecutionContext& ctx, const Routing& routing, const Tensor& logits,
                       const RouterOptions& options) {
  ArenaScope workspace(*ctx.workspace);
  void* scratch = router_workspace(ctx, workspace, logits.size(0));
  if (ctx.planning) return;
  cuda::route_tokens_to_given_experts(
      routing.expert_weight.raw<float>(), routing.scores.raw<float>(), routing.counts.raw<int32_t>(),
      logits.raw<float>(), routing.expert_index.raw<int32_t>(), logits.size(0), options, scratch, stream_of(ctx));
}

void route_backward(ExecutionContext& ctx, const Tensor& d_logits, const Tensor& d_weight, const Tensor& d_scores,
                    const Routing& routing, const RouterOptions& options) {
  if (ctx.planning) return;
  cuda::route_tokens_backward(d_logits.raw<float>(), d_weight.raw<float>(), raw_or_null<float>(d_scores),
                              routing.scores.raw<float>(), routing.expert_index.raw<int32_t>(), d_logits.size(0),
                              options, stream_of(ctx));
}

void sequence_auxiliary_loss(ExecutionContext& ctx, double* loss_sum, const Tensor& d_scores, const Routing& routing,
                             const Tensor& sequence_offset, const RouterOptions& options, double alpha,
                             const double* gradient_scale) {
  const int64_t sequences = sequence_offset.size(0) - 1;
  ArenaScope workspace(*ctx.workspace);
  void* scratch =
      workspace.take_bytes(cuda::sequence_auxiliary_loss_workspace(sequences, routing.scores.size(0), options.experts));
  if (ctx.planning) return;
  cuda::sequence_auxiliary_loss(loss_sum, raw_or_null<float>(d_scores), routing.scores.raw<float>(),
                                routing.expert_index.raw<int32_t>(),
                                SequenceOffsets{sequence_offset.raw<int32_t>(), sequences}, routing.scores.size(0),
                                options, static_cast<float>(alpha), gradient_scale, scratch, stream_of(ctx));
}

void accumulate_counts(ExecutionContext& ctx, const Tensor& load, const Tensor& counts) {
  if (ctx.planning) return;
  cuda::accumulate_counts(load.raw<int32_t>(), counts.raw<int32_t>(), counts.size(0), stream_of(ctx));
}

void update_router_bias(ExecutionContext& ctx, const Tensor& bias, const Tensor& load, double speed) {
  if (ctx.planning) return;
  cuda::update_router_bias(bias.raw<float>(), load.raw<int32_t>(), load.size(0), static_cast<float>(speed),
                           &ctx.state->out.valid, stream_of(ctx));
}

void sort_slots(ExecutionContext& ctx, const SlotOrder& order, const Routing& routing, int alignment) {
  const SlotSortShape shape{.slots = routing.expert_index.numel(),
                            .experts = static_cast<int>(routing.counts.size(0)),
                            .alignment = alignment,
                            .row_capacity = order.slot_of_row.size(0)};
  ArenaScope workspace(*ctx.workspace);
  void* scratch = workspace.take_bytes(static_cast<int64_t>(cuda::sort_slots_workspace_bytes(shape)));
  if (ctx.planning) return;
  cuda::sort_slots_that_fit(
      order.row_of_slot.raw<int32_t>(), order.slot_of_row.raw<int32_t>(), order.group_offset.raw<int32_t>(),
      order.group_size.raw<int32_t>(), ctx.state == nullptr ? nullptr : &ctx.state->out.row_overflow,
      routing.expert_index.raw<int32_t>(), routing.counts.raw<int32_t>(), shape, scratch, stream_of(ctx));
}

void count_choices(ExecutionContext& ctx, const Tensor& counts, const Tensor& expert_index) {
  cuda::count_choices(counts.raw<int32_t>(), counts.size(0), expert_index.raw<int32_t>(), expert_index.numel(),
                      stream_of(ctx));
}

void sort_received_rows(ExecutionContext& ctx, const SlotOrder& order, const Tensor& counts) {
  cuda::sort_received_rows(order.row_of_slot.raw<int32_t>(), order.slot_of_row.raw<int32_t>(),
                           order.group_offset.raw<int32_t>(), order.group_size.raw<int32_t>(),
                           ctx.state == nullptr ? nullptr : &ctx.state->out.row_overflow, counts.raw<int32_t>(),
                           {.ranks = counts.size(0), .experts = counts.size(1), .rows = order.slot_of_row.size(0)},
                           stream_of(ctx));
}

void permute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& x, const SlotOrder& order) {
  if (ctx.planning) return;
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::permute_rows(out.raw<T>(), x.raw<T>(), row_map(order, x.size(0)), x.size(1), stream_of(ctx));
  });
}

void unpermute_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& y, const Tensor& weight,
                    const Tensor& addend, const Tensor& residual, const SlotOrder& order) {
  if (ctx.planning) return;
  for_activation_type(y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::unpermute_rows(out.raw<T>(), y.raw<T>(), raw_or_null<float>(weight), raw_or_null<T>(addend),
                         raw_or_null<T>(residual), row_map(order, out.size(0)), out.size(1), stream_of(ctx));
  });
}

void clear_rows_outside(ExecutionContext& ctx, const Tensor& y, const Tensor& offset) {
  const auto* const offsets = offset.raw<int32_t>();
  cuda::clear_rows_outside(y.raw(), offsets, offsets + offset.size(0) - 1, y.size(0),
                           y.row_numel() * static_cast<int64_t>(dtype_size(y.dtype())), stream_of(ctx));
}

void unpermute_rows_backward(ExecutionContext& ctx, const Tensor& d_y, const Tensor& d_weight, const Tensor& d_out,
                             const Tensor& y, const Tensor& weight, const SlotOrder& order) {
  if (ctx.planning) return;
  for_activation_type(y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::unpermute_rows_backward(d_y.raw<T>(), d_weight.raw<float>(), d_out.raw<T>(), y.raw<T>(), weight.raw<float>(),
                                  row_map(order, d_out.size(0)), y.size(1), stream_of(ctx));
  });
}

}  // namespace deeptitan::on_cuda
