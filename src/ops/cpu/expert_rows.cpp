#include "ops/expert_rows.h"

#include "kernels/cpu/expert_rows/expert_rows.h"
#include "kernels/cpu/permute/permute.h"

namespace deeptitan::on_cpu {
namespace {

PlacedSlots placed(const Tensor& place, int64_t capacity) {
  return {.place = place.host<int32_t>(),
          .tokens = place.size(0),
          .top_k = static_cast<int>(place.size(1)),
          .capacity = capacity};
}

}  // namespace

void place_rows(ExecutionContext& ctx, const Tensor& place, const Tensor& group_offset, const Tensor& group_size,
                const Routing& routing, int64_t capacity, const PeerExchange& peers) {
  const int64_t slots = routing.expert_index.numel(), experts = routing.counts.size(0);
  const int64_t ranks = experts / group_size.size(0);
  ArenaScope workspace(*ctx.workspace);
  const auto take = [&](int64_t n) { return workspace.take(DType::kI32, {n}); };
  const Tensor row_of_slot = take(slots), slot_of_row = take(slots), own_offset = take(experts + 1);
  const Tensor first_row = take(experts), all_counts = take(ranks * experts);
  if (ctx.planning) return;
  const ExpertRowsShape shape{.slots = slots, .experts = static_cast<int>(experts), .capacity = capacity};
  const SlotSortShape sort{.slots = slots, .experts = shape.experts, .alignment = 1, .row_capacity = slots};
  cpu::sort_slots(row_of_slot.host<int32_t>(), slot_of_row.host<int32_t>(), own_offset.host<int32_t>(),
                  routing.expert_index.host<int32_t>(), routing.counts.host<int32_t>(), sort);
  cpu::agree_on_rows({.first_row = first_row.host<int32_t>(),
                      .group_offset = group_offset.host<int32_t>(),
                      .group_size = group_size.host<int32_t>(),
                      .row_overflow = ctx.state == nullptr ? nullptr : &ctx.state->out.row_overflow},
                     routing.counts.host<int32_t>(), all_counts.host<int32_t>(), shape, peers);
  cpu::place_slots(place.host<int32_t>(), routing.expert_index.host<int32_t>(), row_of_slot.host<int32_t>(),
                   own_offset.host<int32_t>(), first_row.host<int32_t>(), shape, static_cast<int>(group_size.size(0)));
}

void meet_ranks(ExecutionContext& /*ctx*/, const PeerExchange& peers) {
  cpu::meet_ranks(peers);
}

void push_rows(ExecutionContext& /*ctx*/, const Tensor& rows, const Tensor& row_weight, const Tensor& x,
               const Tensor& weight, const Tensor& place, const PeerExchange& peers) {
  for_activation_type(x, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::push_rows(rows.host<T>(), host_or_null(row_weight), x.host<T>(), host_or_null(weight),
                   placed(place, rows.size(0)), peers.window, x.size(1));
  });
}

void pull_rows(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& rows, const Tensor& weight,
               const Tensor& addend, const Tensor& place, const PeerExchange& peers) {
  for_activation_type(rows, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::pull_rows(out.host<T>(), rows.host<T>(), host_or_null(weight), addend.defined() ? addend.host<T>() : nullptr,
                   placed(place, rows.size(0)), peers.window, rows.size(1));
  });
}

void pull_values(ExecutionContext& /*ctx*/, const Tensor& out, const Tensor& values, const Tensor& place,
                 const PeerExchange& peers) {
  cpu::pull_values(out.host<float>(), values.host<float>(), placed(place, values.size(0)), peers.window);
}

void weight_rows_backward(ExecutionContext& /*ctx*/, const Tensor& d_rows, const Tensor& d_weight, const Tensor& y,
                          const Tensor& weight, const Tensor& group_offset) {
  for_activation_type(y, [&](auto* element) {
    using T = Element<decltype(element)>;
    cpu::weight_rows_backward(d_rows.host<T>(), d_weight.host<float>(), y.host<T>(), weight.host<float>(),
                              group_offset.host<int32_t>() + group_offset.size(0) - 1, y.size(1));
  });
}

}  // namespace deeptitan::on_cpu
