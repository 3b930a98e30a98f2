#include "model/moe/gather_dispatcher.h"

#include <vector>

#include "comm/exchange_scope.h"
#include "core/error.h"
#include "model/moe/all_to_all_dispatcher.h"

namespace deeptitan {

GatherDispatcher::GatherDispatcher(Communicator& ep, const RouterOptions& router, int64_t few)
    : ep_(ep), own_(experts_of_rank(router.experts, ep)), experts_(router.experts), top_k_(router.top_k), few_(few) {}

TokenDispatcher::Route GatherDispatcher::make_route(Arena& arena, int64_t tokens, int64_t rows) const {
  const auto take = [&](int64_t n) { return arena.take(DType::kI32, {n}); };
  return {.order = {take(tokens * top_k_), take(rows), take(experts_ + 1), take(experts_)}};
}

RowGroups GatherDispatcher::groups(const Routing& /*routing*/, const Route& route) const {
  return {.offsets = route.order.group_offset.rows(own_.first, own_.first + own_.count + 1),
          .sizes = route.order.group_size.rows(own_.first, own_.first + own_.count),
          .capacity = route.order.slot_of_row.size(0),
          .alignment = 1};
}

void GatherDispatcher::dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                                const Route& route) const {
  sort_slots(ctx, route.order, routing, /*alignment=*/1);
  permute_rows(ctx, rows, x, route.order);
}

void GatherDispatcher::combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight,
                               const Tensor& addend, const Route& route) const {
  if (out.size(0) <= few_) {
    add_up(ctx, rows, route);
  } else {
    gather_by_counts(ctx, rows, route);
  }
  unpermute_rows(ctx, out, rows, weight, addend, {}, route.order);
}

void GatherDispatcher::add_up(ExecutionContext& ctx, const Tensor& rows, const Route& route) const {
  constexpr int64_t kWord = sizeof(int32_t);
  DT_CHECK(rows.bytes() % kWord == 0, "rows of {} elements are no whole words of 32 bits", rows.size(1));
  clear_rows_outside(ctx, rows, route.order.group_offset.rows(own_.first, own_.first + own_.count + 1));
  ExchangeScope exchange(ctx);
  ep_.all_reduce(ctx, Tensor(rows.raw(), DType::kI32, {rows.bytes() / kWord}, rows.device()));
}

void GatherDispatcher::gather_by_counts(ExecutionContext& ctx, const Tensor& rows, const Route& route) const {
  std::vector<int64_t> parts(ep_.size(), 0);
  parts.front() = rows.numel();
  if (!ctx.planning) {
    std::vector<int32_t> offsets(experts_ + 1);
    ctx.compute.copy(offsets.data(), route.order.group_offset.raw(), route.order.group_offset.bytes());
    ctx.compute.synchronize();
    for (int64_t r = 0; r < ep_.size(); ++r) {
      parts[r] = (offsets[(r + 1) * own_.count] - offsets[r * own_.count]) * rows.size(1);
    }
  }
  ExchangeScope exchange(ctx);
  ep_.all_gather(ctx, rows, parts);
}

void GatherDispatcher::dispatch_backward(ExecutionContext& /*ctx*/, const Tensor& /*d_x*/, const Tensor& /*d_rows*/,
                                         const Tensor& /*addend*/, const Route& /*route*/) const {
  fail("a model whose ranks all run the same tokens has no backward; train with AllToAllDispatcher");
}

void GatherDispatcher::combine_backward(ExecutionContext& ctx, const Tensor& /*d_rows*/, const Tensor& /*d_weight*/,
                                        const Tensor& d_out, const Tensor& rows, const Tensor& /*weight*/,
                                        const Route& route) const {
  dispatch_backward(ctx, d_out, rows, {}, route);
}

MakeDispatcher make_gather_dispatcher(Communicator& ep, int64_t few) {
  return [&ep, few](const RouterOptions& router) { return std::make_unique<GatherDispatcher>(ep, router, few); };
}

}  // namespace deeptitan
