#include "model/moe/on_device_dispatcher.h"

#include "comm/exchange_scope.h"
#include "model/moe/all_to_all_dispatcher.h"
#include "ops/expert_rows.h"

// T tokens, D hidden, K experts a token, e experts of a rank, R rows that there is room for.

namespace deeptitan {

OnDeviceDispatcher::OnDeviceDispatcher(PeerMemory& memory, const RouterOptions& router, double room)
    : memory_(memory),
      experts_(experts_of_rank(router.experts, memory.rank(), memory.size()).count),
      top_k_(router.top_k),
      room_(room) {}

int64_t OnDeviceDispatcher::most_rows(int64_t tokens) const {
  return most_rows_of_ranks(memory_.size(), tokens, top_k_, experts_);
}

int64_t OnDeviceDispatcher::capacity(int64_t tokens) const {
  return rows_with_room(room_, tokens * top_k_, most_rows(tokens));
}

TokenDispatcher::Route OnDeviceDispatcher::make_route(Arena& arena, int64_t tokens, int64_t rows) const {
  Route route;
  route.order.group_offset = arena.take(DType::kI32, {experts_ + 1});
  route.order.group_size = arena.take(DType::kI32, {experts_});
  route.place = arena.take(DType::kI32, {tokens, top_k_});
  route.row_weight = arena.take(DType::kF32, {rows});
  route.d_row_weight = arena.take(DType::kF32, {rows});
  return route;
}

RowGroups OnDeviceDispatcher::groups(const Routing& /*routing*/, const Route& route) const {
  return {.offsets = route.order.group_offset,
          .sizes = route.order.group_size,
          .capacity = route.row_weight.size(0),
          .alignment = 1};
}

// As if routing were even.
void OnDeviceDispatcher::plan(const ExecutionContext& ctx, const Tensor& x) const {
  if (ctx.planning) memory_.plan_bytes(x.bytes() * top_k_);
}

void OnDeviceDispatcher::dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                                  const Route& route) const {
  begin_dispatch(ctx, rows, x, routing, route);
  finish(ctx);
}

// A context whose work is beside that of `ctx`, behind what is there so far. It takes no workspace, which would be the
// same.
ExecutionContext OnDeviceDispatcher::beside(const ExecutionContext& ctx) const {
  order_streams(ctx, ctx.compute, memory_.stream());
  ExecutionContext other = ctx;
  if (!ctx.planning && ctx.device.kind != DeviceKind::kCpu) other.compute = memory_.stream();
  return other;
}

void OnDeviceDispatcher::finish(ExecutionContext& ctx) const {
  order_streams(ctx, memory_.stream(), ctx.compute);
}

void OnDeviceDispatcher::begin_dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x,
                                        const Routing& routing, const Route& route) const {
  plan(ctx, x);
  const PeerExchange& peers = memory_.peers();
  place_rows(ctx, route.place, route.order.group_offset, route.order.group_size, routing, rows.size(0), peers);
  ExecutionContext other = beside(ctx);
  push_rows(other, rows, {}, x, {}, route.place, peers);
  meet_ranks(other, peers);  // all rows are there
}

void OnDeviceDispatcher::pull(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight,
                              const Tensor& addend, const Route& route) const {
  plan(ctx, out);
  const PeerExchange& peers = memory_.peers();
  meet_ranks(ctx, peers);  // all ranks have written what is read
  pull_rows(ctx, out, rows, weight, addend, route.place, peers);
  meet_ranks(ctx, peers);  // and may use its memory again
}

void OnDeviceDispatcher::combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight,
                                 const Tensor& addend, const Route& route) const {
  pull(ctx, out, rows, weight, addend, route);
}

void OnDeviceDispatcher::dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows,
                                           const Tensor& addend, const Route& route) const {
  pull(ctx, d_x, d_rows, {}, addend, route);
}

// The gradients of a row and of its weight are worked out where the expert's output is: the gradient of the output and
// the weight go there, and the weight's gradient comes back.
void OnDeviceDispatcher::begin_combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight,
                                                const Tensor& d_out, const Tensor& rows, const Tensor& weight,
                                                const Route& route) const {
  plan(ctx, d_out);
  const PeerExchange& peers = memory_.peers();
  ExecutionContext other = beside(ctx);
  meet_ranks(other, peers);  // nobody uses the memory of d_rows any more
  push_rows(other, d_rows, route.row_weight, d_out, weight, route.place, peers);
  meet_ranks(other, peers);
  weight_rows_backward(other, d_rows, route.d_row_weight, rows, route.row_weight, route.order.group_offset);
  meet_ranks(other, peers);
  pull_values(other, d_weight, route.d_row_weight, route.place, peers);
  meet_ranks(other, peers);
}

void OnDeviceDispatcher::combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight,
                                          const Tensor& d_out, const Tensor& rows, const Tensor& weight,
                                          const Route& route) const {
  begin_combine_backward(ctx, d_rows, d_weight, d_out, rows, weight, route);
  finish(ctx);
}

MakeDispatcher make_on_device_dispatcher(PeerMemory& memory, double room) {
  return [&memory, room](const RouterOptions& router) {
    return std::make_unique<OnDeviceDispatcher>(memory, router, room);
  };
}

}  // namespace deeptitan
