#include "model/moe/all_to_all_dispatcher.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/ranges.h>

#include "comm/exchange_scope.h"
#include "core/error.h"
#include "ops/elementwise.h"

// T tokens, D hidden, K experts a token, W ranks, e experts of each, R rows that there is room for. Of the tensors with
// room for R rows only the rows that came are looked at.

namespace deeptitan {
namespace {

int64_t sum(const std::vector<int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

// The order of what came, of as many rows.
SlotOrder order_of_received(const RankExchange& e) {
  const int64_t rows = sum(e.receive_rows);
  return {e.received.row_of_slot.rows(0, rows), e.received.slot_of_row.rows(0, rows), e.received.group_offset,
          e.received.group_size};
}

}  // namespace

ExpertRange experts_of_rank(int64_t experts, int rank, int ranks) {
  if (experts % ranks != 0) {
    std::vector<int64_t> degrees;
    for (int64_t degree = 1; degree <= experts; ++degree) {
      if (experts % degree == 0) degrees.push_back(degree);
    }
    fail_usage("{} ranks cannot share {} routed experts out equally; use an expert-parallel degree of {}", ranks,
               experts, fmt::join(degrees, ", "));
  }
  const int64_t each = experts / ranks;
  return {.first = rank * each, .count = each};
}

int64_t most_rows_of_ranks(int64_t ranks, int64_t tokens, int64_t top_k, int64_t experts) {
  return ranks * tokens * std::min(top_k, experts);
}

int64_t rows_with_room(double room, int64_t mean, int64_t most) {
  return room == 0 ? most : std::min<int64_t>(most, std::llround(room * static_cast<double>(mean)));
}

AllToAllDispatcher::AllToAllDispatcher(Communicator& ep, const RouterOptions& router, double room)
    : ep_(ep), experts_(experts_of_rank(router.experts, ep).count), top_k_(router.top_k), room_(room) {}

int64_t AllToAllDispatcher::most_rows(int64_t tokens) const {
  return most_rows_of_ranks(ep_.size(), tokens, top_k_, experts_);
}

int64_t AllToAllDispatcher::capacity(int64_t tokens) const {
  return rows_with_room(room_, tokens * top_k_, most_rows(tokens));
}

TokenDispatcher::Route AllToAllDispatcher::make_route(Arena& arena, int64_t tokens, int64_t rows) const {
  const int64_t slots = tokens * top_k_;
  const int64_t ranks = ep_.size();
  const auto take = [&](int64_t n) { return arena.take(DType::kI32, {n}); };
  Route route;
  route.order = {take(slots), take(slots), take(ranks * experts_ + 1), take(ranks * experts_)};
  route.exchange = std::make_shared<RankExchange>();
  RankExchange& e = *route.exchange;
  e.received = {take(rows), take(rows), take(experts_ + 1), take(experts_)};
  e.counts = arena.take(DType::kI32, {ranks, experts_});
  e.overflow = take(1);
  // Until a dispatch has counted, what takes the most room: this rank's experts get as many rows as they can.
  const int64_t most = std::min(most_rows(tokens), rows);
  const int64_t own = std::min(slots, most / ranks);
  e.receive_rows.assign(static_cast<size_t>(ranks), 0);
  e.receive_rows[ep_.rank()] = own;
  e.receive_rows[(ep_.rank() + 1) % ranks] = most - own;
  e.send_rows.assign(static_cast<size_t>(ranks), 0);
  e.send_rows[ep_.rank()] = own;
  e.send_rows[(ep_.rank() + 1) % ranks] = slots - own;
  return route;
}

RowGroups AllToAllDispatcher::groups(const Routing& /*routing*/, const Route& route) const {
  const RankExchange& e = *route.exchange;
  return {.offsets = e.received.group_offset,
          .sizes = e.received.group_size,
          .capacity = e.received.slot_of_row.size(0),
          .alignment = 1};
}

// Tells each rank how many rows go to each of its experts, and learns the same of this rank's.
void AllToAllDispatcher::count(ExecutionContext& ctx, const Routing& routing, RankExchange& e) const {
  const int64_t ranks = ep_.size();
  const std::vector<int64_t> of_each(static_cast<size_t>(ranks), 1);
  const Tensor counts = routing.counts.reshape({ranks, experts_});
  {
    ExchangeScope exchange(ctx);
    ep_.all_to_all(ctx, e.counts, of_each, counts, of_each);
  }
  if (ctx.planning) return;
  std::vector<int32_t> sent(counts.numel()), received(counts.numel());
  ctx.compute.copy(sent.data(), counts.raw(), counts.bytes());
  ctx.compute.copy(received.data(), e.counts.raw(), e.counts.bytes());
  ctx.compute.synchronize();
  for (int64_t r = 0; r < ranks; ++r) {
    const auto rows_of = [&](const std::vector<int32_t>& all) {
      const auto first = all.begin() + r * experts_;
      return std::accumulate(first, first + experts_, int64_t{0});
    };
    e.send_rows[r] = rows_of(sent);
    e.receive_rows[r] = rows_of(received);
  }
  const int64_t tokens = routing.expert_index.size(0);
  if (most_rows(tokens) > e.received.slot_of_row.size(0)) give_up_if_any_overflows(ctx, e);
}

// No rank can know by itself that another has no room for what it would send.
void AllToAllDispatcher::give_up_if_any_overflows(ExecutionContext& ctx, RankExchange& e) const {
  int32_t overflows = sum(e.receive_rows) > e.received.slot_of_row.size(0) ? 1 : 0;
  const bool mine = overflows > 0;
  ctx.compute.copy(e.overflow.raw(), &overflows, sizeof overflows);
  {
    ExchangeScope exchange(ctx);
    ep_.all_reduce(ctx, e.overflow);
  }
  ctx.compute.copy(&overflows, e.overflow.raw(), sizeof overflows);
  ctx.compute.synchronize();
  if (overflows == 0) return;
  std::fill(e.send_rows.begin(), e.send_rows.end(), 0);
  std::fill(e.receive_rows.begin(), e.receive_rows.end(), 0);
  if (!mine) fill_zero(ctx, e.counts);  // else they say in sort_received_rows that the rows overflow
}

void AllToAllDispatcher::send_there(ExecutionContext& ctx, const Tensor& received, const Tensor& sent,
                                    const RankExchange& e) const {
  ExchangeScope exchange(ctx);
  ep_.all_to_all(ctx, received, e.receive_rows, sent, e.send_rows);
}

// returned = the rows of this rank's slots, by expert, from rows by expert wherever they lie.
void AllToAllDispatcher::send_back(ExecutionContext& ctx, const Tensor& returned /* [T * K, D] */,
                                   const Tensor& rows /* [R, D] */, const Route& route) const {
  const RankExchange& e = *route.exchange;
  const SlotOrder order = order_of_received(e);
  const int64_t came = order.slot_of_row.size(0);
  ArenaScope workspace(*ctx.workspace);
  const Tensor as_received = workspace.take(rows.dtype(), {came, rows.size(1)});
  unpermute_rows(ctx, as_received, rows.rows(0, came), {}, {}, {}, order);
  if (sum(e.send_rows) == 0) fill_zero(ctx, returned);  // the step overflows: what layers behind see is finite
  ExchangeScope exchange(ctx);
  ep_.all_to_all(ctx, returned, e.send_rows, as_received, e.receive_rows);
}

void AllToAllDispatcher::dispatch(ExecutionContext& ctx, const Tensor& rows, const Tensor& x, const Routing& routing,
                                  const Route& route) const {
  RankExchange& e = *route.exchange;
  sort_slots(ctx, route.order, routing, /*alignment=*/1);
  count(ctx, routing, e);
  sort_received_rows(ctx, e.received, e.counts);
  const SlotOrder order = order_of_received(e);
  const int64_t came = order.slot_of_row.size(0);
  ArenaScope workspace(*ctx.workspace);
  const Tensor sent = workspace.take(x.dtype(), {route.order.slot_of_row.size(0), x.size(1)});
  const Tensor received = workspace.take(x.dtype(), {came, x.size(1)});
  permute_rows(ctx, sent, x, route.order);
  send_there(ctx, received, sent, e);
  permute_rows(ctx, rows.rows(0, came), received, order);
}

void AllToAllDispatcher::dispatch_backward(ExecutionContext& ctx, const Tensor& d_x, const Tensor& d_rows,
                                           const Tensor& addend, const Route& route) const {
  ArenaScope workspace(*ctx.workspace);
  const Tensor returned = workspace.take(d_rows.dtype(), {route.order.slot_of_row.size(0), d_rows.size(1)});
  send_back(ctx, returned, d_rows, route);
  unpermute_rows(ctx, d_x, returned, {}, addend, {}, route.order);
}

void AllToAllDispatcher::combine(ExecutionContext& ctx, const Tensor& out, const Tensor& rows, const Tensor& weight,
                                 const Tensor& addend, const Route& route) const {
  ArenaScope workspace(*ctx.workspace);
  const Tensor returned = workspace.take(rows.dtype(), {route.order.slot_of_row.size(0), rows.size(1)});
  send_back(ctx, returned, rows, route);
  unpermute_rows(ctx, out, returned, weight, addend, {}, route.order);
}

// The gradients of a row and of its weight are worked out where the expert's output is: what travels is the gradient of
// the output and the weight, and the weight's gradient back.
void AllToAllDispatcher::combine_backward(ExecutionContext& ctx, const Tensor& d_rows, const Tensor& d_weight,
                                          const Tensor& d_out, const Tensor& rows, const Tensor& weight,
                                          const Route& route) const {
  const RankExchange& e = *route.exchange;
  const SlotOrder order = order_of_received(e);
  const int64_t slots = route.order.slot_of_row.size(0);
  const int64_t came = order.slot_of_row.size(0);
  const int64_t hidden = d_out.size(1);
  ArenaScope workspace(*ctx.workspace);
  const Tensor d_sent = workspace.take(d_out.dtype(), {slots, hidden});
  const Tensor d_received = workspace.take(d_out.dtype(), {came, hidden});
  const Tensor weight_sent = workspace.take(DType::kF32, {slots, 1});
  const Tensor weight_received = workspace.take(DType::kF32, {came, 1});
  const Tensor d_weight_there = workspace.take(DType::kF32, {came, 1});
  permute_rows(ctx, d_sent, d_out, route.order);
  send_there(ctx, d_received, d_sent, e);
  permute_rows(ctx, weight_sent, weight.reshape({slots, 1}), route.order);
  send_there(ctx, weight_received, weight_sent, e);
  unpermute_rows_backward(ctx, d_rows.rows(0, came), d_weight_there, d_received, rows.rows(0, came), weight_received,
                          order);
  {
    ExchangeScope exchange(ctx);
    ep_.all_to_all(ctx, weight_sent, e.send_rows, d_weight_there, e.receive_rows);
  }
  unpermute_rows(ctx, d_weight.reshape({slots, 1}), weight_sent, {}, {}, {}, route.order);
}

MakeDispatcher make_all_to_all_dispatcher(Communicator& ep, double room) {
  return [&ep, room](const RouterOptions& router) { return std::make_unique<AllToAllDispatcher>(ep, router, room); };
}

}  // namespace deeptitan
