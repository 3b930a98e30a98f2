#include "ops/expert_rows.h"

#include "core/cuda_device.h"
#include "kernels/cuda/barrier/barrier.h"
#include "kernels/cuda/expert_rows/expert_rows.h"
#include "kernels/cuda/permute/permute.h"
#include "ops/cuda/element.h"
#include "ops/cuda/ops.h"

namespace deeptitan::on_cuda {
namespace {

PlacedSlots placed(const Tensor& place, int64_t capacity) {
  return {.place = place.raw<int32_t>(),
          .tokens = place.size(0),
          .top_k = static_cast<int>(place.size(1)),
          .capacity = capacity};
}

}  // namespace

void place_rows(ExecutionContext& ctx, const Tensor& place, const Tensor& group_offset, const Tensor& group_size,
                const Routing& routing, int64_t capacity, const PeerExchange& peers) {
  const int64_t slots = routing.expert_index.numel(), experts = routing.counts.size(0);
  const int64_t ranks = experts / group_size.size(0);
  const SlotSortShape sort{.slots = slots, .experts = static_cast<int>(experts), .alignment = 1, .row_capacity = slots};
  ArenaScope workspace(*ctx.workspace);
  const auto take = [&](int64_t n) { return workspace.take(DType::kI32, {n}); };
  const Tensor row_of_slot = take(slots), slot_of_row = take(slots), own_offset = take(experts + 1);
  const Tensor first_row = take(experts), all_counts = take(ranks * experts);
  void* scratch = workspace.take_bytes(static_cast<int64_t>(cuda::sort_slots_workspace_bytes(sort)));
  if (ctx.planning) return;
  const ExpertRowsShape shape{.slots = slots, .experts = static_cast<int>(experts), .capacity = capacity};
  cuda::sort_slots(row_of_slot.raw<int32_t>(), slot_of_row.raw<int32_t>(), own_offset.raw<int32_t>(),
                   routing.expert_index.raw<int32_t>(), routing.counts.raw<int32_t>(), sort, scratch, stream_of(ctx));
  cuda::agree_on_rows({.first_row = first_row.raw<int32_t>(),
                       .group_offset = group_offset.raw<int32_t>(),
                       .group_size = group_size.raw<int32_t>(),
                       .row_overflow = ctx.state == nullptr ? nullptr : &ctx.state->out.row_overflow},
                      routing.counts.raw<int32_t>(), all_counts.raw<int32_t>(), shape, peers, stream_of(ctx));
  cuda::place_slots(place.raw<int32_t>(), routing.expert_index.raw<int32_t>(), row_of_slot.raw<int32_t>(),
                    own_offset.raw<int32_t>(), first_row.raw<int32_t>(), shape, static_cast<int>(group_size.size(0)),
                    stream_of(ctx));
}

void meet_ranks(ExecutionContext& ctx, const PeerExchange& peers) {
  cuda::barrier_ranks({.window = peers.window,
                       .pad_offset = peers.barrier_pad,
                       .epoch = &peers.words->barrier_epoch,
                       .error = &peers.words->error,
                       .timeout_ns = peers.timeout_ns},
                      cuda::BarrierOrder::kAcquireRelease, stream_of(ctx));
}

void push_rows(ExecutionContext& ctx, const Tensor& rows, const Tensor& row_weight, const Tensor& x,
               const Tensor& weight, const Tensor& place, const PeerExchange& peers) {
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::push_rows(rows.raw<T>(), raw_or_null<float>(row_weight), x.raw<T>(), raw_or_null<float>(weight),
                    placed(place, rows.size(0)), peers.window, x.size(1), stream_of(ctx));
  });
}

void pull_rows(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight, const Tensor& addend,
               const Tensor& place, const PeerExchange& peers) {
  for_activation_type(rows, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::pull_rows(out.raw<T>(), rows.raw<T>(), raw_or_null<float>(weight), raw_or_null<T>(addend),
                    placed(place, rows.size(0)), peers.window, rows.size(1), stream_of(ctx));
  });
}

void pull_values(ExecutionContext& ctx, const Tensor& out, const Tensor& values, const Tensor& place,
                 const PeerExchange& peers) {
  cuda::pull_values(out.raw<float>(), values.raw<float>(), placed(place, values.size(0)), peers.window, stream_of(ctx));
}

void weight_rows_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight, const Tensor& y,
                          const Tensor& weight, const Tensor& group_offset) {
  for_activation_type(y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cuda::weight_rows_backward(d_rows.raw<T>(), d_weight.raw<float>(), y.raw<T>(), weight.raw<float>(),
                               group_offset.raw<int32_t>() + group_offset.size(0) - 1, y.size(0), y.size(1),
                               stream_of(ctx));
  });
}

}  // namespace deeptitan::on_cuda
